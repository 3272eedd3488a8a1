"""Small random decoders, one of each architecture that this package is tested on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config, Qwen3Config

VOCABULARY, WIDTH = 61, 32
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,  # so that layers matter, and no two tokens come near a tie
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(num_hidden_layers=4, **SIZES),
    "qwen2": lambda: Qwen2Config(num_hidden_layers=4, tie_word_embeddings=True, **SIZES),
    "qwen2_sliding": lambda: Qwen2Config(
        num_hidden_layers=4, use_sliding_window=True, sliding_window=5, max_window_layers=2, **SIZES
    ),
    "qwen3": lambda: Qwen3Config(num_hidden_layers=3, **SIZES),
    "gemma3": lambda: Gemma3TextConfig(
        num_hidden_layers=4,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
        **SIZES,
    ),
}


@pytest.fixture(scope="session")
def new_decoder() -> Callable[[str], Any]:
    """Build a random decoder in evaluation mode, the same at every call."""

    def build(architecture: str) -> Any:
        torch.manual_seed(0)
        decoder = AutoModelForCausalLM.from_config(CONFIGS[architecture](), dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in decoder.parameters():
                if weight.dim() == 1:  # norms turn vectors, as trained ones do
                    weight.uniform_(0.2, 1.8)
        return decoder

    return build


@pytest.fixture(params=sorted(CONFIGS))
def decoder(request: pytest.FixtureRequest, new_decoder: Callable[[str], Any]) -> Any:
    """One decoder of each architecture."""
    return new_decoder(request.param)


@pytest.fixture
def sequences() -> list[torch.Tensor]:
    """Decoder inputs [N_i, D] of seven rows, all longer than a sliding window or all but."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, WIDTH, generator=generator) for length in (9, 3, 14, 6, 11, 1, 9)]
