"""Which block to try next, and which to recommend.

In: a redundancy map of every cell and the looks that were taken, as trials of Optuna studies. Out: a proposal, or that
nothing is worth another look, and the block to remove with the probability that it does no harm. `evidence` says what a
look is, `prior` what is taken to hold before the first one, `posterior` what all looks at a decoder tell of every block
(`common` works that out for all its cells at once), `frontier` what to do next; `strategies` holds the usual ones
beside it, `joint` the search for one block that all cells bear, `curve` the blocks of a curve over depths, `agreement`
whether cheap looks rank blocks as full heals do. May import :mod:`slamlab.scoring` and :mod:`slamlab.errors`; neither
torch nor Ray. Every strategy is stateless: the same trials give the same proposal, so resuming needs nothing but the
ledger.
"""
