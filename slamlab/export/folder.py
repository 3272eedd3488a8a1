"""A model as a self-contained folder: written whole or not at all, and loaded again before anybody relies on it.

What is checked are logits, of the model and of its decoder alone, on fixed random inputs, and of a SpeechLLM of
`transformers` those of the stock wrapper on fixed noise, through tower and processor: they are equal bit for bit to
those of the model that was written; where the type of the weights was changed, those of the checkpoint differ from
them by rounding, and by no more than a tolerance.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from slamlab.data.batching import Prompt
from slamlab.errors import ModelError, OptionError, StoreError
from slamlab.model.slam import DECODER_FOLDER, SlamModel, left_pad, load
from slamlab.model.speechllm import SpeechLLM
from slamlab.zoo.profiles import Precision
from slamlab.zoo.towers import audio_inputs, extractor_of, is_speechllm, load_processor

ADAPTER_FILE = "adapter_config.json"
TOLERANCE = 0.05
"""Largest distance of logits after a change of type, relative to their own length: bf16 keeps 8 bits (0.4 %), and
errors of that size add up over layers."""
NUM_FRAMES, NUM_POSITIONS = (40, 23), 8
"""Encoder frames of the two rows of the check, and the last positions of each whose logits are compared."""


def check_new(out: Path) -> None:
    """Raise a :class:`StoreError` unless a folder is new or empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError("an export goes to a new or empty folder", out, "name another with --out, or remove it")


def check_shard_size(size: str) -> None:
    """Raise an :class:`OptionError` unless a size is one that `transformers` takes."""
    if not re.fullmatch(r"[1-9][0-9]*(KB|MB|GB)", size):
        raise OptionError("a shard's size is a whole number of KB, MB or GB", repr(size), "write 2GB, say")


def check_merged(checkpoint: Path) -> None:
    """Raise a :class:`ModelError` where a checkpoint has an adapter that is not merged into its weights.

    That of a published SpeechLLM is part of it, and merged when it is loaded.
    """
    if is_speechllm(checkpoint):
        return
    for folder in (checkpoint, checkpoint / DECODER_FOLDER):
        if (folder / ADAPTER_FILE).exists():
            raise ModelError(
                "a model to export has its adapter merged into its weights",
                folder / ADAPTER_FILE,
                "merge it with PEFT's `merge_and_unload`, save the model, and export that",
            )


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`, which takes its place at the end; after an error there is neither.

    Raises:
        StoreError: It cannot be written.
    """
    check_new(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=".draft-"))
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp makes it private to its owner, and so does safetensors with weights
        for path in draft.rglob("*.safetensors"):
            path.chmod(0o644)
        draft.rename(out)
    except (OSError, SafetensorError) as error:  # the latter on a full disk
        raise _unwritable(out, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_checked(
    checkpoint: Path,
    folder: Path,
    *,
    precision: Precision | None,
    max_shard_size: str,
    cache: Path,
    with_decoder: bool = True,
) -> dict[str, Any]:
    """Write a checkpoint's model into a folder, load it from there, and compare.

    Args:
        checkpoint: Folder of a SLAM model or of a SpeechLLM.
        folder: Where `decoder/`, `projector.safetensors` and `slam.json` go, or the SpeechLLM; it exists.
        precision: Of the weights that are written; None for that of the checkpoint.
        max_shard_size: Largest file of the weights, as `transformers` writes it.
        cache: Where decoders had by name are kept.
        with_decoder: Whether the decoder of a SpeechLLM, which is inside of it, also goes to `decoder/` by itself.

    Returns:
        What is known of the folder: `dtype`, `num_layers`, `num_parameters` (of decoder and projector), `weight_bytes`
        (see :func:`weight_bytes`), `decoder_bytes` (of those in `decoder/`, 0 where there are none), `architecture`
        (the class of a SpeechLLM, else None), and `logits_distance`, 0 where the type is the checkpoint's.

    Raises:
        AssetError: The checkpoint cannot be loaded.
        ModelError: Its adapter is not merged, or the folder is not the same model.
    """
    check_merged(checkpoint)
    model = load(checkpoint, cache=cache)
    if lora := [name for name, _ in model.named_parameters() if "lora_" in name]:
        raise ModelError("a model to export has no adapter of its own", lora[0], "merge it first")
    before = logits(model)
    model = model if precision is None else model.in_precision(precision)
    written = logits(model)
    changed = float((written.float() - before.float()).norm() / before.float().norm())
    if not changed <= TOLERANCE:  # nor NaN
        raise ModelError(
            f"a change of type moves logits by no more than {TOLERANCE:.0%}", f"{changed:.1%}", "keep the type it has"
        )
    alone = decoder_logits(model.decoder)
    heard = architecture = None
    if isinstance(model, SpeechLLM):
        wrapper = model.save(folder, max_shard_size=max_shard_size)
        heard, architecture = wrapper_logits(wrapper, model.processor), type(wrapper).__name__
        del wrapper
    else:
        model.save(folder, with_decoder=False)
        with_decoder = True  # it has no other
    if with_decoder:
        model.decoder.save_pretrained(folder / DECODER_FOLDER, max_shard_size=max_shard_size)
        model.tokenizer.save_pretrained(folder / DECODER_FOLDER)
    known = {
        "architecture": architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "num_layers": model.decoder.config.get_text_config().num_hidden_layers,
        "num_parameters": model.num_parameters(),
        "weight_bytes": weight_bytes(folder),
        "decoder_bytes": sum(path.stat().st_size for path in (folder / DECODER_FOLDER).glob("*.safetensors")),
        "logits_distance": changed,
    }
    del model  # a large one need not be in memory twice
    _compare(written, logits(load(folder)), "slamlab.load")
    if heard is not None:
        _compare(heard, wrapper_logits(plain_wrapper(folder), load_processor(folder)), f"transformers' {architecture}")
    if with_decoder:
        _compare(alone, decoder_logits(plain_decoder(folder)), "transformers' AutoModelForCausalLM")
    return known


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weights in its folder: of a SpeechLLM without a second copy of its decoder."""
    parts = [folder] if is_speechllm(folder) else [folder, folder / DECODER_FOLDER]
    return sum(path.stat().st_size for part in parts for path in part.glob("*.safetensors"))


def plain_decoder(folder: Path) -> Any:
    """Return the decoder of a SLAM model's folder as `transformers` alone loads it."""
    from transformers import AutoModelForCausalLM

    folder = folder / DECODER_FOLDER
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()


def plain_wrapper(folder: Path) -> Any:
    """Return a SpeechLLM as `transformers` alone loads it."""
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()


def wrapper_logits(wrapper: Any, processor: Any) -> torch.Tensor:
    """Return the logits [1, positions, V] of a SpeechLLM of `transformers` for a second of noise, always the same."""
    noise = torch.randn(extractor_of(processor).sampling_rate, generator=torch.Generator().manual_seed(0))
    inputs = audio_inputs(processor, 0.1 * noise.numpy())
    fitting = {name: one.to(wrapper.dtype) if one.is_floating_point() else one for name, one in inputs.items()}
    with torch.inference_mode():
        return wrapper(**fitting, use_cache=False).logits


def logits(model: SlamModel) -> torch.Tensor:
    """Return logits [2, `NUM_POSITIONS`, V] of random speech of two lengths, the same at every call."""
    draw = torch.Generator().manual_seed(0)
    frames = [torch.randn(num, model.config.encoder_width, generator=draw).numpy() for num in NUM_FRAMES]
    prompt = Prompt((), tuple(_ids(model.decoder, draw)))
    with torch.inference_mode():
        inputs, mask = left_pad(model.prefixes(frames, [prompt] * len(frames)))
        return model.answer_logits(inputs, mask, NUM_POSITIONS)


def decoder_logits(decoder: Any) -> torch.Tensor:
    """Return a decoder's logits [1, `NUM_POSITIONS` + 1, V] of random tokens, the same at every call."""
    ids = torch.tensor([_ids(decoder, torch.Generator().manual_seed(1))])
    with torch.inference_mode():
        return decoder(input_ids=ids, use_cache=False).logits


def _ids(decoder: Any, draw: torch.Generator) -> list[int]:
    vocabulary = decoder.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, (NUM_POSITIONS + 1,), generator=draw).tolist()


def _compare(written: torch.Tensor, loaded: torch.Tensor, by: str) -> None:
    if not torch.equal(written, loaded):
        raise ModelError(
            f"a model loaded by {by} gives the logits of the one that was written",
            "other logits" if written.shape == loaded.shape else f"a shape of {tuple(loaded.shape)}",
            "report it: the folder was removed, as it does not hold this model",
        )


def _unwritable(out: Path, error: Exception) -> StoreError:
    return StoreError("an export's folder can be written", f"{out} ({error})", "make room, or name another with --out")
