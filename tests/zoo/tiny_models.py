"""Checkpoints of the architectures of the zoo, at tiny width, laid out as the hub's local cache lays them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    HubertConfig,
    HubertModel,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SeamlessM4TFeatureExtractor,
    SmolLM3Config,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from slamlab.zoo.decoders import train_tokenizer

NUM_LAYERS = 4
BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONV = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
TINY: dict[str, Any] = {
    "num_hidden_layers": NUM_LAYERS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}


def llama(hidden: int, inner: int, heads: int, kv: int, layers: int, vocab: int, *, tied: bool) -> PreTrainedConfig:
    """Return the shape of a Llama."""
    return LlamaConfig(**_shape(hidden, inner, heads, kv, layers, vocab), tie_word_embeddings=tied)


def _shape(hidden: int, inner: int, heads: int, kv: int, layers: int, vocab: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "num_hidden_layers": layers,
        "vocab_size": vocab,
    }


def qwen2(hidden: int, inner: int, heads: int, kv: int, layers: int, vocab: int, *, tied: bool) -> PreTrainedConfig:
    """Return the shape of a Qwen2."""
    return Qwen2Config(**_shape(hidden, inner, heads, kv, layers, vocab), tie_word_embeddings=tied)


def qwen3(hidden: int, inner: int, heads: int, layers: int, *, tied: bool) -> PreTrainedConfig:
    """Return the shape of a Qwen3."""
    return Qwen3Config(**_shape(hidden, inner, heads, 8, layers, 151_936), head_dim=128, tie_word_embeddings=tied)


PUBLISHED = {
    ("qwen", "1.5b"): qwen2(1536, 8960, 12, 2, 28, 151_936, tied=True),
    ("qwen", "3b"): qwen2(2048, 11_008, 16, 2, 36, 151_936, tied=True),
    ("qwen", "7b"): qwen2(3584, 18_944, 28, 4, 28, 152_064, tied=False),
    ("llama", "135m"): llama(576, 1536, 9, 3, 30, 49_152, tied=True),
    ("llama", "1b"): llama(2048, 8192, 32, 8, 16, 128_256, tied=True),
    ("llama", "3b"): llama(3072, 8192, 24, 8, 28, 128_256, tied=True),
    ("llama", "8b"): llama(4096, 14_336, 32, 8, 32, 128_256, tied=False),
    ("qwen3", "0.6b"): qwen3(1024, 3072, 16, 28, tied=True),
    ("qwen3", "1.7b"): qwen3(2048, 6144, 16, 28, tied=True),
    ("qwen3", "4b"): qwen3(2560, 9728, 32, 36, tied=True),
    ("qwen3", "8b"): qwen3(4096, 12_288, 32, 36, tied=False),
    ("gemma", "1b"): Gemma3TextConfig(**_shape(1152, 6912, 4, 1, 26, 262_144), head_dim=256),
    ("gemma", "2b"): Gemma2Config(**_shape(2304, 9216, 8, 4, 26, 256_000), head_dim=256),
    ("gemma", "9b"): Gemma2Config(**_shape(3584, 14_336, 16, 8, 42, 256_000), head_dim=256),
    ("smollm", "360m"): llama(960, 2560, 15, 5, 32, 49_152, tied=True),
    ("smollm", "1.7b"): llama(2048, 8192, 32, 32, 24, 49_152, tied=True),
    ("smollm", "3b"): SmolLM3Config(**_shape(2048, 11_008, 16, 4, 36, 128_256), tie_word_embeddings=True),
}
"""Shapes as the models' own configs publish them."""


def in_hub_cache(cache: Path, hub_id: str, save: Callable[[Path], object]) -> Path:
    """Let `save` write a model where the hub's local cache would have it, and return the folder."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save(snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    return snapshot


def save_decoder(row: tuple[str, str], folder: Path) -> Any:
    """Write a decoder of a row's architecture with random weights and a tokenizer of bytes; return the model."""
    shape = PUBLISHED[row]
    tokenizer = train_tokenizer(["a"], vocab_size=259)
    tokenizer.save_pretrained(folder)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    tied = {"tie_word_embeddings": shape.tie_word_embeddings}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(type(shape)(**TINY, **tied, **tokens, vocab_size=len(tokenizer)))
    model.eval().save_pretrained(folder)
    return model


def save_whisper(folder: Path) -> WhisperModel:
    """Write a whole Whisper of 128 mel bins, as large-v3 has, and return it."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        num_mel_bins=128,
    )
    model = WhisperModel(config).eval()
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    return model


def save_masked(kind: str, folder: Path) -> torch.nn.Module:
    """Write an encoder of the wav2vec 2.0 lineage, `wavlm`, `hubert`, `hubert-base` or `w2v-bert`, and return it."""
    torch.manual_seed(0)
    if kind == "w2v-bert":
        config = Wav2Vec2BertConfig(**BODY, feature_projection_input_dim=160, conv_depthwise_kernel_size=7)
        model, extractor = Wav2Vec2BertModel(config), SeamlessM4TFeatureExtractor()
    else:
        norm = "group" if kind == "hubert-base" else "layer"
        options = {
            **BODY,
            **CONV,
            "feat_extract_norm": norm,
            "conv_bias": True,
            "do_stable_layer_norm": norm == "layer",
        }
        model = WavLMModel(WavLMConfig(**options)) if kind == "wavlm" else HubertModel(HubertConfig(**options))
        extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
    model.eval().save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model
