"""A SpeechLLM that `transformers` itself has, as a SLAM model: its own tower, projector, decoder, processor and prompt.

Qwen2-Audio (arXiv 2407.10759), Granite-Speech (arXiv 2505.08699), Audio-Flamingo 3 (arXiv 2507.08128), Music-Flamingo,
GLM-ASR and their like are an audio tower, a projector and a causal language model in one wrapper. Here the decoder
is taken out, so that everything that is done to a decoder can be done to it, and put back when the model is saved: what
is saved is a plain checkpoint of the wrapper. The tower is frozen and stays behind, as any encoder's frames come from
:mod:`slamlab.data.features` (:class:`slamlab.zoo.towers.TowerEncoder`).

Logits are the wrapper's own. One exception: Granite's decoder divides its logits by `logits_scaling`, as it was trained
to, where the wrapper in `transformers` 5.23 does not; greedy answers are the same.

Shapes: B batch, T frames, W their width, S audio positions, D decoder width.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slamlab.data.batching import Prompt
from slamlab.errors import ModelError, OptionError
from slamlab.model.slam import SlamConfig, SlamModel, find_folder, request_text
from slamlab.zoo.languages import LANGUAGES
from slamlab.zoo.towers import (
    Parts,
    audio_inputs,
    extractor_of,
    load_processor,
    load_wrapper,
    num_positions,
    tower_spec,
)
from slamlab.zoo.voxtral import is_voxtral, voxtral_inputs

SPEECHLLM_FILE = "speechllm.json"
"""In the folder of a SpeechLLM that was saved here: the names of the one that it was made from."""


class OwnProjector(nn.Module):
    """The projector of a wrapper, on padded frames.

    Args:
        inner: From frames [B, T, W] to [B, S, D]: each frame for itself, or by queries to windows of frames.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def num_positions(self, num_frames: int) -> int:
        """Return how many decoder positions an utterance of `num_frames` frames takes."""
        return num_positions(self.inner, num_frames)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Project frames [B, T, W], zeros past the end of an utterance, to [B, S, D]."""
        return self.inner(frames)


class SpeechLLM(SlamModel):
    """Decoder and projector of a SpeechLLM of `transformers`.

    Args:
        config: Names and sizes.
        decoder: The causal language model that was inside.
        projector: The projector that was.
        processor: Of the wrapper; the tokenizer's end token is the one that ends a turn.
        source: Folder that the wrapper, its tower above all, is loaded from again when this model is saved.
    """

    answer_start = ""  # templates end where the answer begins
    target_languages = LANGUAGES.keys()  # as requests are free text

    def __init__(self, config: SlamConfig, decoder: Any, projector: nn.Module, processor: Any, source: Path) -> None:
        super().__init__(config, decoder, processor.tokenizer, OwnProjector(projector))
        self.processor, self.source = processor, source
        self._prompts: dict[tuple[str, str, str], Prompt] = {}

    @property
    def encoder_name(self) -> str:
        """The folder of these weights, which has the tower; where they came from first need not exist any more."""
        return str(self.source)

    def prompt(self, task: str, language: str, target_language: str = "en") -> Prompt:
        """Return what the processor puts around audio to ask for a task.

        Raises:
            ModelError: The processor has no single place for audio in a request.
        """
        asked = task, language, target_language
        if asked not in self._prompts:
            self._prompts[asked] = _prompt(self.processor, *asked)
        return self._prompts[asked]

    def save(self, folder: Path, *, with_decoder: bool = True, max_shard_size: str = "50GB") -> Any:
        """Write the whole SpeechLLM as a checkpoint that stock `transformers` loads, its processor beside it.

        Args:
            folder: Created where missing; not the one that this model came from.
            with_decoder: True; the decoder is part of the checkpoint.
            max_shard_size: Largest file of the weights, as `transformers` writes it.

        Returns:
            The wrapper that was written, which has this model's own decoder and projector inside.

        Raises:
            OptionError: `with_decoder` is False.
        """
        if not with_decoder:
            raise OptionError("a SpeechLLM is saved with its decoder", "with_decoder=False", "leave it out")
        parts = load_wrapper(self.source, dtype=self.dtype)
        parts.base.language_model = self.decoder.base_model
        parts.wrapper.set_output_embeddings(self.decoder.get_output_embeddings())
        setattr(parts.base, parts.projector, self.projector.inner)
        parts.wrapper.config.text_config = self.decoder.config
        self.decoder.config.dtype = self.dtype  # `transformers` tells it of the wrapper and its tower alone
        # Weights take the names that the source had, but where an adapter was loaded after them, whose names would win.
        has_adapter = (self.source / "adapter_config.json").is_file()
        parts.wrapper.save_pretrained(folder, save_original_format=not has_adapter, max_shard_size=max_shard_size)
        load_processor(self.source).save_pretrained(folder)
        (folder / SPEECHLLM_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        return parts.wrapper


def load_speechllm(name: str) -> SpeechLLM:
    """Load a SpeechLLM in the precision of its checkpoint, in evaluation mode, without its tower.

    Args:
        name: Hub id ("owner/name") or folder; of one that :meth:`SpeechLLM.save` wrote, the first model's names stay.

    Raises:
        AssetError: The weights cannot be had.
        ModelError: It is no SpeechLLM, its architecture or processor is none that can be handled.
    """
    folder = find_folder(name)
    spec = tower_spec(name, folder)  # first: an architecture is refused before its weights are read
    processor = load_processor(folder)
    parts = load_wrapper(folder)
    processor.tokenizer.eos_token = _end_of_turn(processor, parts.wrapper)
    if (folder / SPEECHLLM_FILE).is_file():
        config = SlamConfig(**json.loads((folder / SPEECHLLM_FILE).read_text()))
    else:
        config = SlamConfig(
            family=parts.wrapper.config.model_type,
            scale=Path(name).name,
            encoder=name,
            encoder_width=spec.width,
            stack=1,
            projector_hidden=0,
        )
    model = SpeechLLM(config, _decoder(parts), getattr(parts.base, parts.projector), processor, folder)
    return model.requires_grad_(False).eval()


def _decoder(parts: Parts) -> Any:
    """Return the wrapper's language model and head as the causal language model that they were made from."""
    from transformers import AutoModelForCausalLM

    inner = parts.base.language_model
    try:
        with torch.device("meta"):
            decoder: Any = AutoModelForCausalLM.from_config(inner.config)
    except ValueError:
        raise ModelError(
            "the decoder of a SpeechLLM is a causal language model of `transformers`",
            inner.config.model_type,
            "use a SpeechLLM whose decoder is one",
        ) from None
    if type(decoder.base_model) is not type(inner):
        raise ModelError(
            f"the decoder of a SpeechLLM is a {type(decoder.base_model).__name__}", type(inner).__name__, "use another"
        )
    setattr(decoder, decoder.base_model_prefix, inner)
    decoder.set_output_embeddings(parts.wrapper.get_output_embeddings())
    decoder.generation_config = copy.deepcopy(parts.wrapper.generation_config)  # where turns end
    return decoder


def _prompt(processor: Any, task: str, language: str, target_language: str) -> Prompt:
    """Return the token ids around the audio in a request, as the processor itself makes them of a second of silence."""
    waveform = np.zeros(extractor_of(processor).sampling_rate, dtype=np.float32)
    if is_voxtral(processor):
        words = "" if task == "asr" else request_text(task, language, target_language)
        inputs = voxtral_inputs(processor, waveform, words, language)
    else:
        inputs = audio_inputs(processor, waveform, _request(processor, task, language, target_language))
    ids = np.asarray(inputs["input_ids"]).ravel()
    places = np.flatnonzero(ids == processor.tokenizer.convert_tokens_to_ids(processor.audio_token))
    if not len(places) or places[-1] - places[0] + 1 != len(places):
        raise _no_single_place(f"{len(places)} apart from each other")
    return Prompt(tuple(ids[: places[0]].tolist()), tuple(ids[places[-1] + 1 :].tolist()))


def _request(processor: Any, task: str, language: str, target_language: str) -> str:
    """Return a request with one audio placeholder: the processor's own for transcripts, else words in its template."""
    if task == "asr" and hasattr(processor, "apply_transcription_request"):
        silence = np.zeros(extractor_of(processor).sampling_rate, dtype=np.float32)
        asked = processor.apply_transcription_request(silence, tokenize=False)
        return asked if isinstance(asked, str) else asked[0]
    return _turns(processor, request_text(task, language, target_language))


def _turns(processor: Any, words: str, answer: str | None = None) -> str:
    """Render a user's turn of audio and words, and what comes after: the answer where given, else where it begins."""
    plain = processor.audio_token + words
    if not (processor.chat_template or processor.tokenizer.chat_template):
        return plain + (answer or "")
    # Templates take a list of parts, or (those of text decoders) one string that holds the placeholder.
    for content in ([{"type": "audio"}, {"type": "text", "text": words}], plain):
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
        owner = processor if processor.chat_template else processor.tokenizer
        text = str(owner.apply_chat_template(turns, add_generation_prompt=answer is None, tokenize=False))
        if text.count(processor.audio_token) == 1 and words in text:
            return text
    raise _no_single_place("a chat template that shows none, or several, or leaves out the words beside it")


def _end_of_turn(processor: Any, wrapper: Any) -> str:
    """Return the token that ends an answer: of those that stop generation, the one that the template writes there."""
    tokenizer = processor.tokenizer
    stops = wrapper.generation_config.eos_token_id
    if isinstance(stops, list) and len(stops) > 1:
        mark = "answer"
        tail = _turns(processor, "words", mark).rpartition(mark)[2]
        for token in tokenizer.encode(tail, add_special_tokens=False):
            if token in stops:
                return str(tokenizer.convert_ids_to_tokens(token))
    return str(tokenizer.eos_token)


def _no_single_place(received: str) -> ModelError:
    return ModelError(
        "the processor of a SpeechLLM has one place for audio in a request", received, "use another SpeechLLM"
    )
