"""A toy SpeechLLM and examples with answers of one length, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from slamlab.data.batching import Example, Prompt
from slamlab.model.slam import SlamConfig, SlamModel
from slamlab.zoo.decoders import train_tokenizer

WIDTH = 6


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Keep toy models on one thread, where they are fastest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The smallest tokenizer there is: bytes and special tokens."""
    return train_tokenizer(["a"], vocab_size=259)


@pytest.fixture
def new_model(tokenizer: Any) -> Callable[..., SlamModel]:
    """Build a toy model, the same at every call."""

    def build(*, num_layers: int = 2, tied: bool = False) -> SlamModel:
        torch.manual_seed(0)
        config = LlamaConfig(
            num_hidden_layers=num_layers,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            initializer_range=0.1,
            tie_word_embeddings=tied,
        )
        names = SlamConfig(
            family="llama", scale="mini", encoder="toy", encoder_width=WIDTH, stack=2, projector_hidden=16
        )
        return SlamModel(names, AutoModelForCausalLM.from_config(config), tokenizer)

    return build


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Sixteen utterances of unlike lengths, each answered by six tokens that its frames tell."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(16):
        frames = rng.standard_normal((5 + i, WIDTH)).astype(np.float16)
        answer = tuple(int(token) for token in rng.integers(3, 40, size=6))
        made.append(Example(source=frames, prompt=Prompt((), (50, 51, 52)), answer=answer))
    return made


@pytest.fixture
def stream(examples: list[Example]) -> Callable[[int], Iterator[list[Example]]]:
    """Yield batches of a size in a fixed order, without end."""

    def batches(size: int) -> Iterator[list[Example]]:
        yield from cycle([examples[i : i + size] for i in range(0, len(examples), size)])

    return batches
