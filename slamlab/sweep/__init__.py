"""The experiment: cells, one trial from top to bottom, the ledger, and the Ray Tune run over all of it.

In: a :class:`~slamlab.sweep.settings.Settings`. Out: a ledger, artefacts in a store, and `results.json`. May import
every other folder; only the folder `cluster` imports Ray, only `ledger` imports Optuna.
"""
