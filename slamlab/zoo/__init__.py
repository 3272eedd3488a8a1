"""Everything with a proper name, one file an axis: encoders, decoders, languages, corpora, profiles.

In: a name a user typed, and a cache folder. Out: a table row, or the model behind it. May import
:mod:`slamlab.errors` only; `torch`, `transformers` and the corpora's classes are imported inside the functions that
need them, so that reading a table costs nothing.
"""
