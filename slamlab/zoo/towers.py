"""The encoder inside a SpeechLLM of `transformers`: its own audio pre-processing and frozen tower, up to its projector.

A wrapper is known by its structure, not by a table of names: a configuration with `text_config` and `audio_config` (or
`encoder_config`), and inside the model a tower, a projector and a `language_model`. Frames are what the projector is
given in the wrapper's own forward pass, so whatever lies before it (windows of 30 s, masks, stacking, time embeddings)
is the original's, and what it has to learn stays trainable: the projector.

Recordings go through one by one, as towers differ in what padding does to them; each goes through once in its life.

Shapes: W width of what the projector takes, T frames, S positions that the decoder sees.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slamlab.errors import DataError, ModelError
from slamlab.zoo.encoders import EncoderSpec, SpeechEncoder, load_complete
from slamlab.zoo.voxtral import is_voxtral, voxtral_inputs

PROVEN = "Qwen2-Audio, Granite-Speech, Audio-Flamingo 3, Music-Flamingo, GLM-ASR and Voxtral"
"""Architectures that `tests/model/test_speechllm.py` and `test_voxtral.py` compare with the stock forward pass."""
_TOWERS, _PROJECTORS = ("audio_tower", "encoder"), ("multi_modal_projector", "projector")
_OTHERS = {"language_model", "pos_emb"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the parts of a wrapper hang.

    Attributes:
        wrapper: The whole model.
        base: What owns tower, projector and `language_model`.
        tower: Name of the attribute of `base`.
        projector: Likewise.
    """

    wrapper: Any
    base: Any
    tower: str
    projector: str


def find_parts(wrapper: Any) -> Parts:
    """Return where the parts of a wrapper hang.

    Raises:
        ModelError: It has not one tower, one projector, a language model and a head, or something unknown beside them.
    """
    base = getattr(wrapper, "base_model", wrapper)
    names = {name for name, _ in base.named_children()}
    towers, projectors = names.intersection(_TOWERS), names.intersection(_PROJECTORS)
    if (
        len(towers) != 1
        or len(projectors) != 1
        or not {"language_model"} <= names - towers - projectors <= _OTHERS
        or wrapper.get_output_embeddings() is None
    ):
        raise _unknown(type(wrapper).__name__)
    return Parts(wrapper=wrapper, base=base, tower=towers.pop(), projector=projectors.pop())


def is_speechllm(folder: Path) -> bool:
    """Say whether a folder is that of a SpeechLLM of `transformers`, as it was published or pruned."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "text_config" in config


def is_wrapper(config: Any) -> bool:
    """Say whether a configuration is that of a SpeechLLM: speech in, a language model inside."""
    return hasattr(config, "text_config") and (hasattr(config, "audio_config") or hasattr(config, "encoder_config"))


def tower_spec(name: str, folder: Path) -> EncoderSpec:
    """Describe the encoder inside a SpeechLLM, its weights unread.

    Raises:
        ModelError: No SpeechLLM, or one that is not made of a tower, a projector and a language model.
    """
    from transformers import AutoModelForSeq2SeqLM

    config = read_config(folder)
    try:
        with torch.device("meta"):
            parts = find_parts(AutoModelForSeq2SeqLM.from_config(config))
    except (ValueError, ImportError) as error:
        if isinstance(error, ModelError):
            raise
        raise _unknown(config.model_type) from None
    attention = getattr(config, "projector_config", None)  # a Q-Former attends to frames, the others multiply them
    if attention is not None:
        width = attention.encoder_hidden_size
    else:
        modules = getattr(parts.base, parts.projector).modules()
        width = next(module.in_features for module in modules if isinstance(module, nn.Linear))
    return EncoderSpec(name=name, hub_id=name, kind="tower", width=width, frame_rate_hz=0.0)


def read_config(folder: Path) -> Any:
    """Return the configuration of a SpeechLLM's folder.

    Raises:
        ModelError: It is that of something else.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError("a SpeechLLM's folder is one that `transformers` loads", folder, str(error)) from None
    if not is_wrapper(config):
        raise _unknown(config.model_type)
    return config


def load_wrapper(folder: Path, dtype: Any = "auto") -> Parts:
    """Load a SpeechLLM as `transformers` does, on the CPU and in evaluation mode.

    Granite-Speech keeps a LoRA adapter of its decoder apart, to be switched on where there is audio. Here there always
    is, so the adapter is merged into the decoder: what it answers to audio stays, its way with text alone does not.

    Args:
        folder: A folder of `transformers`.
        dtype: Of the weights; "auto" takes that of the checkpoint.

    Raises:
        ModelError: It cannot be loaded, is incomplete, or is made otherwise than :func:`find_parts` knows.
    """
    from transformers import AutoModelForSeq2SeqLM

    read_config(folder)
    parts = find_parts(load_complete(AutoModelForSeq2SeqLM, folder, dtype=dtype).eval())
    _merge_adapter(parts)
    return parts


def load_processor(folder: Path) -> Any:
    """Load the processor of a SpeechLLM: audio pre-processing, tokenizer and chat template.

    Raises:
        ModelError: It cannot be loaded, mostly for a package that is missing, or takes audio in a way of its own.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            "a SpeechLLM's folder holds a processor that `transformers` loads", folder, f"see to this: {reason}"
        ) from None
    check_processor(processor)
    return processor


def check_processor(processor: Any) -> None:
    """Refuse a processor that takes audio in a way of its own, unless that is Voxtral's.

    Raises:
        ModelError: It cannot be called with text and audio.
    """
    if not is_voxtral(processor) and "audio" not in inspect.signature(type(processor).__call__).parameters:
        raise ModelError(
            "the processor of a SpeechLLM takes text and audio in one call", type(processor).__name__, f"use {PROVEN}"
        )


def extractor_of(processor: Any) -> Any:
    """Return the part of a processor that turns waveforms into what a tower takes."""
    return getattr(processor, "feature_extractor", None) or processor.audio_processor


def audio_inputs(processor: Any, waveform: np.ndarray, text: str | None = None) -> dict[str, Any]:
    """Return a wrapper's inputs for one recording, as its own processor makes them.

    Args:
        processor: Of the wrapper.
        waveform: float32 [samples] at the processor's rate.
        text: Holds one audio placeholder; None for nothing else. Voxtral's takes none.
    """
    if is_voxtral(processor):
        return voxtral_inputs(processor, waveform)
    rate = extractor_of(processor).sampling_rate
    inputs = processor(text=[text or processor.audio_token], audio=[waveform], sampling_rate=rate, return_tensors="pt")
    return dict(inputs)


def num_positions(projector: nn.Module, num_frames: int) -> int:
    """Return how many positions a wrapper's projector makes of T frames: as many, or some queries a window."""
    window, queries = getattr(projector, "window_size", 1), getattr(projector, "num_queries", 1)
    return -(-num_frames // window) * queries


class TowerEncoder(SpeechEncoder):
    """The tower of a SpeechLLM, with everything that comes before its projector."""

    def _load(self, folder: Path) -> Any:
        parts = load_wrapper(folder)
        getattr(parts.base, parts.tower).float()
        self._projector = getattr(parts.base, parts.projector)
        self._audio_token_id: int = parts.wrapper.config.audio_token_id
        parts.base.language_model.layers = nn.ModuleList()  # never reached, and most of the memory
        setattr(parts.base, parts.projector, _Catcher())
        return parts.base

    def _preprocessor(self, folder: Path) -> Any:
        processor = load_processor(folder)
        if (rate := extractor_of(processor).sampling_rate) != self.sample_rate_hz:
            raise ModelError(
                f"speech is read at {self.sample_rate_hz} Hz", f"{rate} Hz in {folder}", "use another model"
            )
        return processor

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        return [self._encode_one(waveform) for waveform in waveforms]

    def _encode_one(self, waveform: np.ndarray) -> np.ndarray:
        inputs = audio_inputs(self.extractor, waveform)
        window = getattr(extractor_of(self.extractor), "n_samples", waveform.size)
        if len(inputs["input_features"]) * window < waveform.size:
            raise DataError(
                f"{self.name} hears {window / self.sample_rate_hz:g} s at most",
                f"{waveform.size / self.sample_rate_hz:.1f} s",
                "leave the recording out, or cut it",
            )
        wanted = int((inputs["input_ids"] == self._audio_token_id).sum())
        too_short = DataError(
            f"speech for {self.name} lasts long enough for a position of its projector",
            f"{waveform.size / self.sample_rate_hz:.2f} s",
            "leave out recordings that are this short",
        )
        if not wanted:  # some towers fail on so little
            raise too_short
        on_device = {key: value.to(self.device) if torch.is_tensor(value) else value for key, value in inputs.items()}
        try:
            self.model(**on_device)
        except _Caught as caught:
            frames = caught.frames.reshape(-1, caught.frames.shape[-1])  # [windows x T, W]
        else:  # Qwen2-Audio takes a single position for a step of decoding
            raise too_short
        if num_positions(self._projector, 1) == 1:
            frames = frames[:wanted]  # all windows but the last are full
        if num_positions(self._projector, len(frames)) != wanted:
            raise DataError(
                "the processor of a SpeechLLM leaves one place for every position of its projector",
                f"{wanted} for {num_positions(self._projector, len(frames))} in {self.name}",
                "leave out recordings of this length",
            )
        return frames.half().cpu().numpy()


def _merge_adapter(parts: Parts) -> None:
    """Merge a LoRA adapter that `transformers` put into a decoder, and forget that there was one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(parts.base.language_model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parts.base.language_model.set_submodule(path, module.get_base_layer())
    parts.wrapper._hf_peft_config_loaded = False
    if hasattr(parts.wrapper.config, "has_lora_adapter"):
        parts.wrapper.config.has_lora_adapter = False


def _unknown(received: object) -> ModelError:
    return ModelError(
        "a SpeechLLM is an audio tower, a projector and a language model, as `transformers` has them",
        received,
        f"use one that does: {PROVEN} are tested",
    )


class _Caught(Exception):
    """Carries what reached the projector out of a forward pass that need not go on."""

    def __init__(self, frames: torch.Tensor) -> None:
        super().__init__()
        self.frames = frames


class _Catcher(nn.Module):
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        raise _Caught(frames)
