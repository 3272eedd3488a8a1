"""The smaller model as a folder of its own: written whole or not at all, checked, measured, described, and pushed.

In: a sweep's `results.json`, a checkpoint. Out: a folder for users. May import zoo, data, model and scoring.
"""
