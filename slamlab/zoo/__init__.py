"""Everything with a proper name, one file an axis: encoders, decoders, languages, corpora, profiles.

In: a name a user typed, and a cache folder. Out: a table row, or the model behind it. May import
:mod:`slamlab.errors` only; `torch` and `transformers` are imported inside the functions that load weights, so
that reading a table costs nothing.
"""
