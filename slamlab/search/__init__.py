"""Which block to try next, and which to recommend.

In: a redundancy map and the probes that have finished. Out: a proposal, or none when the answer is known. May import
:mod:`slamlab.scoring` and :mod:`slamlab.errors`; neither torch nor Ray. Every function is stateless: the same probes
give the same proposal, so resuming needs nothing but the ledger.
"""
