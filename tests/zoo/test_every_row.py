"""Every row of the zoo: loaded from where the hub's cache has it, taught, pruned, healed, heard, saved and read again.

Weights are random and the width is tiny; architecture, files and layout are those that the hub id names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import NUM_LAYERS, PUBLISHED, in_hub_cache, save_decoder, save_masked, save_whisper
from transformers import AutoModelForCausalLM

import slamlab
from slamlab.errors import AssetError, ModelError, OptionError
from slamlab.model.decode import generate
from slamlab.model.slam import SlamConfig, SlamModel
from slamlab.model.surgery import LayerBlock, decoder_layers, receiving_layer, without
from slamlab.training.heal import heal
from slamlab.training.loop import train
from slamlab.zoo import assets, decoders
from slamlab.zoo.decoders import DECODERS, GIVEN, find_decoder, load_decoder, turns_of
from slamlab.zoo.encoders import ENCODERS, load_encoder, locate_encoder
from slamlab.zoo.profiles import HealRecipe, TrainRecipe

WIDTH = 6
PRETRAINED = [key for key, spec in DECODERS.items() if spec.is_pretrained]
TWO_STEPS = TrainRecipe(num_steps=2, batch_size=2, peak_lr=1e-3)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a local hub cache, empty at first; nothing else is reachable."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(assets, "installed_path", lambda file: None)
    decoders._spec_from_config.cache_clear()
    return cache


def new_model(decoder: Any, tokenizer: Any, row: tuple[str, str], width: int = WIDTH) -> SlamModel:
    family, scale = row
    names = SlamConfig(family=family, scale=scale, encoder="toy", encoder_width=width, stack=2, projector_hidden=16)
    torch.manual_seed(0)
    return SlamModel(names, decoder.float(), tokenizer).eval()


def examples_of(model: SlamModel, num: int = 4) -> list[Any]:
    rng = np.random.default_rng(0)
    frames = [rng.standard_normal((8 + i, model.config.encoder_width)).astype(np.float16) for i in range(num)]
    return [model.example(own, "two words", task="asr", language="en") for own in frames]


def forever(examples: list[Any]) -> Any:
    while True:
        yield examples[:2]
        yield examples[2:]


def through_the_house(model: SlamModel, folder: Path) -> None:
    """Teach, prune, heal, decode, save and read again."""
    examples = examples_of(model)
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    losses = [step.loss for step in train(model, forever(examples), TWO_STEPS)]
    assert len(losses) == 2
    block = LayerBlock(1, 2)
    pruned = SlamModel(model.config, without(model.decoder, block), model.tokenizer).eval()
    pruned.projector.load_state_dict(model.projector.state_dict())
    receiver = receiving_layer(block, NUM_LAYERS)
    healed = [step.loss for step in heal(pruned, receiver, forever(examples), HealRecipe(train=TWO_STEPS, r=4), 0)]
    assert len(healed) == 2
    assert all(np.isfinite(losses + healed))
    with torch.inference_mode():
        prefixes = pruned.prefixes([one.source for one in examples], [one.prompt for one in examples])
        eos, pad = pruned.tokenizer.eos_token_id, pruned.tokenizer.pad_token_id
        how = {"eos_token_id": eos, "pad_token_id": pad}
        together = generate(pruned.decoder, prefixes, [6] * len(prefixes), **how)
        alone = [generate(pruned.decoder, [one], [6], **how)[0] for one in prefixes]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    pruned.save(folder)
    again = slamlab.load(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder / "decoder").eval()
    assert len(decoder_layers(stock)) == NUM_LAYERS - block.depth
    ids = torch.tensor([[1, 9, 40, 2]])
    with torch.inference_mode():
        expected = pruned.decoder(ids).logits
        assert torch.equal(again.decoder(ids).logits, expected)
        assert torch.equal(stock(ids).logits, expected)
        assert torch.equal(again(examples), pruned(examples))


@pytest.mark.parametrize("row", PRETRAINED, ids="-".join)
def test_decoder(row: tuple[str, str], hub: Path, tmp_path: Path) -> None:
    saved = in_hub_cache(hub, DECODERS[row].hub_id, lambda folder: save_decoder(row, folder))
    decoder, tokenizer = load_decoder(*row, tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(saved)
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), stock.parameters(), strict=True))
    through_the_house(new_model(decoder, tokenizer, row), tmp_path / "pruned")


@pytest.mark.parametrize("row", PRETRAINED, ids="-".join)
def test_a_row_says_what_its_published_shape_amounts_to(row: tuple[str, str]) -> None:
    spec, shape = DECODERS[row], PUBLISHED[row]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    assert (spec.num_layers, spec.hidden) == (shape.num_hidden_layers, shape.hidden_size)
    assert spec.num_params_billion == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e9, rel=2e-3)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_encoder(name: str, hub: Path, tmp_path: Path) -> None:
    spec = ENCODERS[name]
    kind = "w2v-bert" if name.startswith("w2v") else name.partition("-")[0]

    def save(folder: Path) -> object:
        return save_whisper(folder) if spec.kind == "whisper" else save_masked(kind, folder)

    in_hub_cache(hub, spec.hub_id, save)
    located = locate_encoder(name, tmp_path)
    assert (located.spec.name, located.spec.kind, located.spec.frame_rate_hz) == (name, spec.kind, 50.0)
    assert located.spec.width == 32, "as its config says"
    encoder = load_encoder(name, tmp_path)
    waveforms = [np.random.default_rng(i).standard_normal(6_000 + 900 * i).astype(np.float32) / 9 for i in range(4)]
    frames = encoder.encode(waveforms)
    assert all(abs(len(own) - 50 * len(wave) / 16_000) <= 2 for own, wave in zip(frames, waveforms, strict=True))
    save_decoder(("llama", "1b"), tmp_path / "decoder")
    decoder, tokenizer = load_decoder(str(tmp_path / "decoder"), GIVEN, tmp_path)
    model = new_model(decoder, tokenizer, ("llama", "1b"), located.spec.width)
    heard = [model.example(own, "two words", task="asr", language="en") for own in frames]
    losses = [step.loss for step in train(model, forever(heard), TWO_STEPS)]
    assert len(losses) == 2
    assert all(np.isfinite(losses))


def test_any_causal_lm_goes_by_its_folder_or_hub_id(hub: Path, tmp_path: Path) -> None:
    model = save_decoder(("qwen3", "4b"), tmp_path / "mine")
    in_hub_cache(hub, "someone/theirs", lambda folder: save_decoder(("gemma", "2b"), folder))
    spec = find_decoder(str(tmp_path / "mine"), GIVEN)
    assert (spec.num_layers, spec.hidden, spec.is_pretrained) == (NUM_LAYERS, 32, True)
    assert spec.num_params_billion == pytest.approx(model.num_parameters() / 1e9)
    assert find_decoder("someone/theirs", GIVEN).num_layers == NUM_LAYERS
    for name in (str(tmp_path / "mine"), "someone/theirs"):
        decoder, tokenizer = load_decoder(name, GIVEN, tmp_path)
        through_the_house(new_model(decoder, tokenizer, (name, GIVEN)), tmp_path / "pruned")


def test_what_is_no_decoder_is_refused_in_a_sentence(hub: Path, tmp_path: Path) -> None:
    save_whisper(tmp_path / "speech")
    with pytest.raises(ModelError, match=r"of text alone, got .*whisper"):
        find_decoder(str(tmp_path / "speech"), GIVEN)
    save_masked("hubert", tmp_path / "masked")
    with pytest.raises(ModelError, match=r"a causal language model of `transformers`, got .*hubert"):
        find_decoder(str(tmp_path / "masked"), GIVEN)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"an adapter alone .* merge it into its base first"):
        find_decoder(str(tmp_path / "adapter"), GIVEN)
    (tmp_path / "custom").mkdir()
    custom = '{"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.Model"}}'
    (tmp_path / "custom" / "config.json").write_text(custom)
    (tmp_path / "custom" / "code.py").write_text("raise SystemExit('ran code from a model folder')")
    with pytest.raises(ModelError, match="code from a hub is not run"):
        find_decoder(str(tmp_path / "custom"), GIVEN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json that `transformers` reads"):
        find_decoder(str(tmp_path / "empty"), GIVEN)
    with pytest.raises(AssetError, match=r"someone/nothing.*hf auth login"):
        find_decoder("someone/nothing", GIVEN)
    with pytest.raises(OptionError, match="one scale, given"):
        find_decoder("someone/nothing", "7b")


def test_the_users_turn_is_that_of_the_chat_template(tmp_path: Path) -> None:
    save_decoder(("llama", "1b"), tmp_path)
    _, tokenizer = load_decoder(str(tmp_path), GIVEN, tmp_path)
    assert turns_of(tokenizer) == ("<s>", "\n"), "of a base model: its first token"
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% if not enable_thinking %}[thought]{% endif %}{% endif %}"
    )
    assert turns_of(tokenizer) == ("<s>[user]", "[end][assistant][thought]")
    model = new_model(*load_decoder(str(tmp_path), GIVEN, tmp_path), (str(tmp_path), GIVEN))
    model.tokenizer = tokenizer
    before, after = (tokenizer.decode(list(ids)) for ids in model.prompt("asr", "de"))
    assert (before, after) == ("<s>[user]Transcribe German:", "[end][assistant][thought]German:")
