"""Tiny random SpeechLLMs with processors of their own classes, saved as folders that stock `transformers` loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3Processor,
    AutoModelForSeq2SeqLM,
    GlmAsrConfig,
    GlmAsrProcessor,
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechProcessor,
    MusicFlamingoConfig,
    MusicFlamingoProcessor,
    Qwen2AudioConfig,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank
from transformers.models.granite_speech import feature_extraction_granite_speech

from slamlab.zoo.decoders import train_tokenizer

RATE = 16_000
TEXTS = [
    "Transcribe English: the train leaves at half past eight",
    "Translate German to English: yes",
    "user assistant",
]
SPECIALS = [
    *("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<sound>", "<|sound_bos|>", "<|sound_eos|>"),
    *("<|pad|>", "<|audio|>", "<|im_start|>", "<|im_end|>"),
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}AUDIO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WHISPER: dict[str, Any] = {
    "num_mel_bins": 16,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "max_source_positions": 1500,
}
SHORT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_mel_bins": 16,
}


def _text(kind: str, vocabulary: int, **options: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        **options,
    }


def _qwen2_audio(size: int, token: Callable[[str], int]) -> Any:
    return Qwen2AudioConfig(audio_config=WHISPER, text_config=_text("qwen2", size), audio_token_id=token("<|AUDIO|>"))


def _flamingo(size: int, token: Callable[[str], int]) -> Any:
    return AudioFlamingo3Config(
        audio_config={**SHORT, "max_source_positions": 1500},
        text_config=_text("qwen2", size),
        audio_token_id=token("<sound>"),
    )


def _music_flamingo(size: int, token: Callable[[str], int]) -> Any:
    return MusicFlamingoConfig(
        audio_config={**SHORT, "model_type": "audioflamingo3_encoder", "max_source_positions": 1500},
        text_config=_text("qwen2", size),
        audio_token_id=token("<sound>"),
        audio_bos_token_id=token("<|sound_bos|>"),
        audio_eos_token_id=token("<|sound_eos|>"),
    )


def _glm(size: int, token: Callable[[str], int]) -> Any:
    return GlmAsrConfig(
        audio_config={**SHORT, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8},
        text_config=_text("llama", size, tie_word_embeddings=True),
        tie_word_embeddings=True,
        audio_token_id=token("<|pad|>"),
    )


def _granite(size: int, token: Callable[[str], int]) -> Any:
    return GraniteSpeechConfig(
        encoder_config={"input_dim": 160, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "context_size": 20}
        | {"output_dim": 8, "max_pos_emb": 32, "conv_kernel_size": 5},
        projector_config={"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1}
        | {"num_attention_heads": 2, "intermediate_size": 24, "encoder_hidden_size": 16},
        text_config=_text("granite", size, logits_scaling=4.0, tie_word_embeddings=True),
        audio_token_index=token("<|audio|>"),
        has_lora_adapter=False,
    )


class _MelSpectrogram(torch.nn.Module):
    """What Granite-Speech takes of torchaudio, which has no build for every torch: its mel spectrogram."""

    def __init__(self, *, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int) -> None:
        super().__init__()
        self.sizes = {"n_fft": n_fft, "win_length": win_length, "hop_length": hop_length}
        bins = n_fft // 2 + 1
        self.filters = torch.tensor(mel_filter_bank(bins, n_mels, 0.0, sample_rate / 2, sample_rate)).float()

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(self.sizes["win_length"])
        spectrum = torch.stft(audio, window=window, return_complex=True, **self.sizes).abs() ** 2  # [B, F, T]
        return torch.einsum("fm,bft->bmt", self.filters, spectrum)


@contextmanager
def with_mel_spectrogram() -> Iterator[None]:
    """Let Granite-Speech's own feature extractor run where torchaudio is not installed."""
    torchaudio = SimpleNamespace(transforms=SimpleNamespace(MelSpectrogram=_MelSpectrogram))
    with (
        patch.object(feature_extraction_granite_speech, "requires_backends", lambda *_: None),
        patch.object(feature_extraction_granite_speech, "torchaudio", torchaudio, create=True),
    ):
        yield


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How to make one architecture.

    Attributes:
        configure: Given the vocabulary's size and what finds a token's id.
        processor: Given a tokenizer and a chat template.
        placeholder: What a chat template writes where the audio goes.
        installed: Holds while the processor is in use.
    """

    configure: Callable[[int, Callable[[str], int]], Any]
    processor: Callable[[Any, str], Any]
    placeholder: str
    installed: Callable[[], AbstractContextManager[None]] = nullcontext


def _whisper(processor: Any) -> Callable[[Any, str], Any]:
    extractor = WhisperFeatureExtractor(feature_size=16, sampling_rate=RATE, chunk_length=30)
    return lambda tokenizer, template: processor(extractor, tokenizer, chat_template=template)


def _granite_processor(tokenizer: Any, template: str) -> Any:
    return GraniteSpeechProcessor(GraniteSpeechFeatureExtractor(), tokenizer, chat_template=template)


KINDS = {
    "qwen2_audio": Kind(
        configure=_qwen2_audio,
        processor=_whisper(Qwen2AudioProcessor),
        placeholder="<|audio_bos|><|AUDIO|><|audio_eos|>",
    ),
    "audioflamingo3": Kind(configure=_flamingo, processor=_whisper(AudioFlamingo3Processor), placeholder="<sound>"),
    "musicflamingo": Kind(configure=_music_flamingo, processor=_whisper(MusicFlamingoProcessor), placeholder="<sound>"),
    "glmasr": Kind(configure=_glm, processor=_whisper(GlmAsrProcessor), placeholder="<|pad|>"),
    "granite_speech": Kind(
        configure=_granite, processor=_granite_processor, placeholder="<|audio|>", installed=with_mel_spectrogram
    ),
}


def make_speechllm(kind: str, folder: Path) -> Path:
    """Save a random SpeechLLM of 4 decoder layers and its processor in `folder`, the same at every call."""
    made = KINDS[kind]
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS})
    made.processor(tokenizer, TEMPLATE.replace("AUDIO", made.placeholder)).save_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(made.configure(len(tokenizer), tokenizer.convert_tokens_to_ids))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" not in name and weight.dim() > 1:
                weight.mul_(8)  # so that towers and projectors are heard
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    ]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


def waveforms(*lengths_s: float) -> list[np.ndarray]:
    """Return noise in unlike colours, float32, of the given lengths."""
    rng = np.random.default_rng(0)
    return [np.cumsum(rng.standard_normal(int(RATE * s))).astype(np.float32) % 1 - 0.5 for s in lengths_s]
