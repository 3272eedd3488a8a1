"""Texts in; counts, intervals and verdicts out.

In: references and hypotheses of utterances with ids. Out: records that anyone can score again, WER or BLEU with its
signature, the interval of a relative degradation, a verdict. May import :mod:`slamlab.errors` and
:mod:`slamlab.zoo`; neither torch nor Ray, so that it runs anywhere.
"""
