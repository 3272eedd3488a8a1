"""The SpeechLLM: encoder frames -> projector -> decoder, the whole forward pass in one file.

SLAM (Ma et al., arXiv 2402.08846; Moumen, Sun, Woodland, arXiv 2603.05121): the sequence is audio, prompt, answer, end,
with a first part of the prompt before the audio where the decoder is pretrained; the loss is on answer and end only;
the prompt names task and language. The speech encoder is frozen, so it is not part of this module: its frames come from
:mod:`slamlab.data.features`, computed once.

Sequences are padded on the left in training as in generation: all answers end at the last position, so logits are
computed for the answers' positions alone, and one rule holds everywhere.

Shapes: B batch, T encoder frames, W encoder width, S audio positions, P tokens of both parts of the prompt, A answer
tokens with the end, N = S + P + A positions, D decoder width, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from slamlab.data.batching import Example, Prompt
from slamlab.errors import AssetError
from slamlab.model.projector import Projector
from slamlab.zoo.assets import check_weights, hub_folder
from slamlab.zoo.decoders import DECODERS, turns_of
from slamlab.zoo.languages import LANGUAGES
from slamlab.zoo.profiles import Precision
from slamlab.zoo.towers import is_speechllm

CONFIG_FILE, PROJECTOR_FILE, DECODER_FOLDER = "slam.json", "projector.safetensors", "decoder"


@dataclass(frozen=True, kw_only=True)
class SlamConfig:
    """What, beside the weights, makes a SLAM model.

    Attributes:
        family: Decoder family, as in :mod:`slamlab.zoo.decoders`.
        scale: Decoder scale within the family.
        encoder: Speech encoder, as in :mod:`slamlab.zoo.encoders`.
        encoder_width: Width of its frames.
        stack: Frames joined into one position.
        projector_hidden: Width of the projector's hidden layer; 0 where a SpeechLLM brings its own projector.
    """

    family: str
    scale: str
    encoder: str
    encoder_width: int
    stack: int
    projector_hidden: int


def request_text(task: str, language: str, target_language: str = "en") -> str:
    """Return the words that ask for a task; see :func:`prompt_text` for the arguments."""
    spoken = LANGUAGES[language].name
    return f"Transcribe {spoken}:" if task == "asr" else f"Translate {spoken} to {LANGUAGES[target_language].name}:"


def prompt_text(
    task: str, language: str, target_language: str = "en", *, turns: tuple[str, str] | None = None
) -> tuple[str, str]:
    """Return what stands before the audio and what stands between it and the answer.

    A pretrained decoder is asked as it was in its own training. SmolLM2-135M-Instruct, given 12 sentences as text in
    place of audio, repeated them at 0.43 nats a token, but at 2.56 where the words alone stood after the sentence: a
    sequence's first position is where attention rests, and should not be a sound.

    Args:
        task: `asr` or `st`.
        language: Spoken.
        target_language: Written, where the task is `st`.
        turns: What opens and ends the user's turn of a pretrained decoder, None for a miniature.
    """
    written = LANGUAGES[language if task == "asr" else target_language].name
    asked = request_text(task, language, target_language)
    return ("", f" {asked}") if turns is None else (turns[0] + asked, f"{turns[1]}{written}:")


class SlamModel(nn.Module):
    """Projector and decoder with its tokenizer.

    Args:
        config: Names and sizes.
        decoder: A `transformers` causal LM.
        tokenizer: Its tokenizer, with an end token.
        projector: With the two methods of :class:`Projector`; None for a new one of the configuration's sizes.
    """

    answer_start = " "
    """What parts an answer from the prompt before it."""
    target_languages: Collection[str] = ("en",)
    """Languages that it may be asked to translate into: those that corpora have translations in."""

    def __init__(self, config: SlamConfig, decoder: Any, tokenizer: Any, projector: Any = None) -> None:
        super().__init__()
        self.config, self.decoder, self.tokenizer = config, decoder, tokenizer
        self.projector = projector or Projector(
            encoder_width=config.encoder_width,
            stack=config.stack,
            hidden=config.projector_hidden,
            decoder_width=decoder.get_input_embeddings().embedding_dim,
        )

    def with_decoder(self, decoder: Any) -> Self:
        """Return a copy with another decoder in the place of this one's and its own projector, in evaluation mode."""
        kept = {id(self.decoder): decoder, id(self.tokenizer): self.tokenizer}
        return copy.deepcopy(self, kept).eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.projector.parameters()).device

    @cached_property
    def _turns(self) -> tuple[str, str] | None:
        """What opens and ends the user's turn, None of a miniature."""
        spec = DECODERS.get((self.config.family, self.config.scale))
        if spec is None:  # by hub id or folder, which need not be at hand any more
            return turns_of(self.tokenizer)
        return spec.turns if spec.is_pretrained else None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.projector.parameters()).dtype

    @property
    def encoder_name(self) -> str:
        """Name under which :func:`slamlab.zoo.encoders.load_encoder` finds the encoder of this model."""
        return self.config.encoder

    def prompt(self, task: str, language: str, target_language: str = "en") -> Prompt:
        """Return the token ids that ask for a task; see :func:`prompt_text` for the arguments."""
        texts = prompt_text(task, language, target_language, turns=self._turns)
        return Prompt(*(tuple(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts))

    def example(self, source: np.ndarray | str, answer: str, *, task: str, language: str) -> Example:
        """Tokenize one training sequence; `source` is frames [T, W], or text that stands in for the speech."""
        encode = self.tokenizer.encode
        if isinstance(source, str):
            source = np.asarray(encode(source, add_special_tokens=False), dtype=np.int64)
        return Example(
            source=source,
            prompt=self.prompt(task, language),
            answer=(*encode(self.answer_start + answer, add_special_tokens=False), self.tokenizer.eos_token_id),
        )

    def prefixes(self, sources: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """Return the decoder inputs of source and prompt around it, one [S + P, D] a row.

        Args:
            sources: Frames [T, W] or token ids [tokens], the same kind in all rows.
            prompts: Token ids of each row's prompt.
        """
        embed = self.decoder.get_input_embeddings()
        if sources[0].ndim == 1:
            rows = [embed(_ids(ids, self.device)) for ids in sources]
        else:
            frames = [torch.as_tensor(own).to(self.device, self.dtype) for own in sources]
            projected = self.projector(nn.utils.rnn.pad_sequence(frames, batch_first=True))  # [B, S, D]
            rows = [out[: self.projector.num_positions(len(own))] for out, own in zip(projected, frames, strict=True)]
        return [
            torch.cat([embed(_ids(prompt.before, self.device)), own, embed(_ids(prompt.after, self.device))])
            for own, prompt in zip(rows, prompts, strict=True)
        ]

    def sequences(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return whole training sequences as inputs [B, N, D], attention mask [B, N] and labels [B, A].

        Labels are the answers' tokens, -100 on the left of a shorter answer.
        """
        embed = self.decoder.get_input_embeddings()
        prefixes = self.prefixes([e.source for e in examples], [e.prompt for e in examples])
        answers = [_ids(e.answer, self.device) for e in examples]
        inputs, mask = left_pad(torch.cat([head, embed(tail)]) for head, tail in zip(prefixes, answers, strict=True))
        labels = nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=-100, padding_side="left")
        return inputs, mask, labels

    def answer_logits(self, inputs: torch.Tensor, mask: torch.Tensor, num_answer: int) -> torch.Tensor:
        """Return the logits [B, A, V] that predict the last `num_answer` positions."""
        hook = self.decoder.get_output_embeddings().register_forward_pre_hook(_contiguous)
        try:
            logits = self.decoder(
                inputs_embeds=inputs,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=num_answer + 1,
            ).logits
        finally:
            hook.remove()
        return logits[:, :-1]  # a position predicts the next one

    def forward(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return the mean cross-entropy of the answers' tokens, in nats."""
        inputs, mask, labels = self.sequences(examples)
        logits = self.answer_logits(inputs, mask, labels.shape[1])
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    def in_precision(self, precision: Precision) -> Self:
        """Return this model where its weights are of that precision, else a copy whose are."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        if all(parameter.dtype == dtype for parameter in self.parameters()):
            return self
        other = copy.deepcopy(self)
        cast(other, dtype)
        return other

    def num_parameters(self) -> int:
        """Count the weights of decoder and projector, tied ones once."""
        return sum(p.numel() for p in self.parameters())

    def save(self, folder: Path, *, with_decoder: bool = True) -> None:
        """Write the model: `decoder/` as a plain `transformers` checkpoint, the projector, and the configuration.

        Args:
            folder: Created where missing.
            with_decoder: False for a decoder that is frozen and had by name (:mod:`slamlab.zoo.decoders`).
        """
        folder.mkdir(parents=True, exist_ok=True)
        if with_decoder:
            self.decoder.save_pretrained(folder / DECODER_FOLDER)
            self.tokenizer.save_pretrained(folder / DECODER_FOLDER)
        weights = {name: tensor.contiguous() for name, tensor in self.projector.state_dict().items()}
        save_file(weights, folder / PROJECTOR_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n")


def find_folder(name: Path | str) -> Path:
    """Return the folder of a model: the one named, or the local copy of a SpeechLLM on the hub ("owner/name").

    Raises:
        AssetError: It is no folder, and neither the local cache nor the hub has it.
    """
    if Path(name).exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)):
        return Path(name)
    try:
        return hub_folder(str(name))
    except AssetError as error:
        rule = "a model is a folder that slamlab wrote, or a SpeechLLM's folder or hub id"
        raise AssetError(rule, f"no folder {error.received}", f"check the path, or {error.remedy}") from None


def load(folder: Path | str, *, cache: Path | str | None = None) -> SlamModel:
    """Load a SLAM model that :meth:`SlamModel.save` wrote, bit for bit, in evaluation mode.

    Args:
        folder: The model's folder; of a SpeechLLM of `transformers` (:mod:`slamlab.model.speechllm`), pruned or as it
            was published, or its hub id.
        cache: Where decoders had by name are kept, needed only for a folder without `decoder/`.

    Raises:
        AssetError: The folder is not a model, a file of it is damaged, or its named decoder cannot be had.
        ModelError: A SpeechLLM's architecture or processor is none that can be handled.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if is_speechllm(find_folder(folder)):
        from slamlab.model.speechllm import load_speechllm

        return load_speechllm(str(folder))
    folder = Path(folder)
    for name in (CONFIG_FILE, PROJECTOR_FILE):
        if not (folder / name).is_file():
            remedy = "give a folder that slamlab wrote, or a SpeechLLM's folder or hub id"
            raise AssetError(f"a SLAM model's folder holds {name}", folder, remedy)
    if (folder / DECODER_FOLDER).is_dir():
        check_weights(folder / DECODER_FOLDER)
    decoder: Any
    tokenizer: Any
    try:
        config = SlamConfig(**json.loads((folder / CONFIG_FILE).read_text()))
        weights = load_file(folder / PROJECTOR_FILE)
        if (folder / DECODER_FOLDER).is_dir():
            safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(folder / DECODER_FOLDER, **safely)
            safely |= {"use_safetensors": True, "dtype": "auto"}
            decoder = AutoModelForCausalLM.from_pretrained(folder / DECODER_FOLDER, **safely)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise AssetError("a SLAM model's files are whole", f"{folder} ({error})", "copy or write it again") from None
    if not (folder / DECODER_FOLDER).is_dir():
        from slamlab.zoo.decoders import load_decoder

        decoder, tokenizer = load_decoder(config.family, config.scale, Path(cache) if cache else folder.parent)
    model = SlamModel(config, decoder, tokenizer)
    cast(model, next(iter(weights.values())).dtype)  # a decoder had by name comes in the type of its checkpoint
    try:
        model.projector.load_state_dict(weights)
    except RuntimeError as error:
        received = f"other shapes in {folder / PROJECTOR_FILE} ({error})"
        rule = f"a SLAM model's projector is that of {CONFIG_FILE}"
        raise AssetError(rule, received, "copy or write it again") from None
    return model.eval()


def _ids(tokens: Sequence[int] | np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(tokens, dtype=torch.long, device=device)


def _contiguous(_head: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Hand the head its positions in one piece.

    Given a slice of a batch, torch multiplies row by row, with a copy of the whole vocabulary's weights for each: with
    a vocabulary of 49,152 that took a fifth of a training step of SmolLM2-135M on a CPU in fp32, a third in bf16.
    """
    return (args[0].contiguous(), *args[1:])


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Change the type of weights in place; buffers keep theirs, unlike in `module.to(dtype)`.

    Rotary frequencies rounded to bf16 put a position a few hundred tokens on at the wrong angle, and
    `transformers` keeps them in fp32 when it loads a model.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def left_pad(rows: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad sequences of vectors on the left.

    Args:
        rows: One [N_i, D] a sequence.

    Returns:
        Inputs [B, N, D] and attention mask [B, N], int64, 1 where a row has a position of its own.
    """
    rows = list(rows)
    inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    lengths = torch.tensor([len(row) for row in rows], device=inputs.device)
    mask = torch.arange(inputs.shape[1], device=inputs.device) >= inputs.shape[1] - lengths[:, None]
    return inputs, mask.long()
