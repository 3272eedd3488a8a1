"""The SpeechLLM and its anatomy.

In: encoder frames and texts. Out: losses, hypotheses, angular distances, pruned models. May import zoo and data.
"""
