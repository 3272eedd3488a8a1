"""Speech and text in, utterances and batches out.

In: a synthesised corpus (`pocket`), a manifest of recordings (`recordings`), prompts recorded for Debian (`asterisk`).
Out: :class:`~slamlab.data.utterance.Utterance` by language and split, through the `Corpus` protocol, and what is made
of them for a model. May import `slamlab.zoo` and `slamlab.errors`, nothing further down.
"""
