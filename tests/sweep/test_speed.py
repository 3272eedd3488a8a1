"""Decoders of fewer layers do as much while they are timed."""

import numpy as np
import pytest
import torch

from slamlab.data.batching import Prompt
from slamlab.model.decode import generate_exactly


@pytest.mark.parametrize("num_tokens", [1, 30])
def test_an_end_token_ends_nothing_and_neither_does_a_loop(ran, num_tokens):
    model = ran[0]._base.model
    head = model.decoder.get_output_embeddings()
    handle = head.register_forward_hook(lambda _module, _inputs, logits: logits.index_fill(-1, torch.tensor(2), 1e9))
    try:
        with torch.inference_mode():
            tokens = generate_exactly(
                model.decoder,
                model.prefixes([np.array([5, 6]), np.array([7, 8, 9])], [Prompt((), (4,))] * 2),
                num_tokens,
            )
    finally:
        handle.remove()
    assert model.tokenizer.eos_token_id == 2
    assert tokens.tolist() == [[2] * num_tokens] * 2
