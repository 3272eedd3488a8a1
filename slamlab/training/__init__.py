"""One DeepSpeed loop for base and heal, and LoRA at the seam.

In: a SLAM model and an endless stream of example batches. Out: the trained model. May import zoo, data and model; the
only folder that imports DeepSpeed.
"""
