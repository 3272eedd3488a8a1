"""The SLAM model against stock transformers: one utterance at a time, unpadded, the loss added up by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config

import slamlab
from slamlab.data.batching import Example
from slamlab.errors import AssetError
from slamlab.model.slam import CONFIG_FILE, PROJECTOR_FILE, SlamConfig, SlamModel, cast, left_pad, load, prompt_text
from slamlab.zoo import decoders
from slamlab.zoo.decoders import train_tokenizer

WIDTH, STACK = 6, 2
TEXTS = ["yes", "the train leaves at half past eight", "", "Grüße aus Köln"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
}
CONFIGS = {
    "gpt2": lambda vocabulary: GPT2Config(  # the only one whose positions are absolute
        vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=4, n_positions=256, initializer_range=0.2
    ),
    "llama": lambda vocabulary: LlamaConfig(vocab_size=vocabulary, **SIZES),
    "qwen2": lambda vocabulary: Qwen2Config(vocab_size=vocabulary, **SIZES),
    "gemma3": lambda vocabulary: Gemma3TextConfig(
        vocab_size=vocabulary,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=8,
        **SIZES,
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([prompt_text("asr", "en")[1], *TEXTS], vocab_size=300)


@pytest.fixture
def new_model(tokenizer: Any) -> Callable[[str], SlamModel]:
    def build(architecture: str = "llama") -> SlamModel:
        torch.manual_seed(0)
        decoder = AutoModelForCausalLM.from_config(CONFIGS[architecture](len(tokenizer)), dtype=torch.float32)
        config = SlamConfig(
            family="llama", scale="mini", encoder="toy", encoder_width=WIDTH, stack=STACK, projector_hidden=16
        )
        return SlamModel(config, decoder, tokenizer).eval()

    return build


@pytest.fixture(params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest, new_model: Callable[[str], SlamModel]) -> SlamModel:
    return new_model(request.param)


def examples_of(model: SlamModel, kind: str) -> list[Example]:
    """Return four examples of unlike lengths, sources and answers alike, with `frames` or `text` as source."""
    rng = np.random.default_rng(0)
    sources: Sequence[Any] = [" one", " two and a half words", " three", " a longer source than all the others"]
    if kind == "frames":
        sources = [rng.standard_normal((length, WIDTH)).astype(np.float16) for length in (9, 4, 21, 1)]
    return [
        model.example(source, text, task=task, language=language)
        for source, text, task, language in zip(
            sources, TEXTS, ("asr", "st", "asr", "st"), ("en", "de", "fr", "es"), strict=True
        )
    ]


def embedded_prefix(model: SlamModel, example: Example) -> torch.Tensor:
    """Return source and prompt of one example alone [S + P, D]."""
    embed = model.decoder.get_input_embeddings()
    if example.source.ndim == 1:
        head = embed(torch.tensor(example.source))
    else:
        frames = torch.tensor(example.source, dtype=torch.float32)
        head = model.projector(frames[None])[0]
    before, after = (torch.tensor(ids, dtype=torch.long) for ids in example.prompt)
    return torch.cat([embed(before), head, embed(after)])


def loss_by_hand(model: SlamModel, example: Example) -> torch.Tensor:
    """Sum the cross-entropy of one example's answer: no padding, no mask, no positions, all logits."""
    embed = model.decoder.get_input_embeddings()
    prefix, answer = embedded_prefix(model, example), torch.tensor(example.answer)
    logits = model.decoder(inputs_embeds=torch.cat([prefix, embed(answer)])[None]).logits[0]
    log_probabilities = logits.log_softmax(-1)
    total = torch.zeros(())
    for i, token in enumerate(answer):
        total = total - log_probabilities[len(prefix) + i - 1, token]  # the position before predicts it
    return total


@pytest.mark.parametrize("kind", ["frames", "text"])
@torch.no_grad()
def test_the_loss_is_that_of_stock_transformers(kind: str, model: SlamModel) -> None:
    examples = examples_of(model, kind)
    sums = [float(loss_by_hand(model, example)) for example in examples]
    counts = [len(example.answer) for example in examples]
    assert len(set(counts)) > 2
    for example, total, count in zip(examples, sums, counts, strict=True):
        assert float(model([example])) == pytest.approx(total / count, rel=2e-5)
    assert float(model(examples)) == pytest.approx(sum(sums) / sum(counts), rel=2e-5)  # weighted by tokens
    assert float(model(examples[::-1])) == pytest.approx(sum(sums) / sum(counts), rel=2e-5)


def test_the_head_gets_its_positions_in_one_piece_and_the_decoder_stays_as_it_is(model: SlamModel) -> None:
    head, seen = model.decoder.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _, args, __: seen.append(args[0].is_contiguous()))
    model(examples_of(model, "frames"))
    handle.remove()
    assert seen == [True]
    assert not head._forward_pre_hooks


@torch.no_grad()
def test_padding_on_the_left_changes_no_logits(model: SlamModel) -> None:
    inputs, mask, labels = model.sequences(examples_of(model, "frames")[:1])
    alone = model.answer_logits(inputs, mask, labels.shape[1])
    junk = torch.randn(1, 7, inputs.shape[2], generator=torch.Generator().manual_seed(1))
    padded = model.answer_logits(
        torch.cat([junk, inputs], 1), torch.cat([torch.zeros(1, 7, dtype=torch.long), mask], 1), labels.shape[1]
    )
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["frames", "text"])
@torch.no_grad()
def test_a_prefix_does_not_depend_on_its_neighbours(kind: str, new_model: Callable[[str], SlamModel]) -> None:
    model = new_model("llama")
    examples = examples_of(model, kind)
    prefixes = model.prefixes([e.source for e in examples], [e.prompt for e in examples])
    for prefix, example in zip(prefixes, examples, strict=True):
        torch.testing.assert_close(prefix, embedded_prefix(model, example), rtol=1e-5, atol=1e-6)


def test_an_example_holds_source_prompt_and_answer_with_its_end(new_model: Callable[[str], SlamModel]) -> None:
    model = new_model("llama")
    frames = np.zeros((4, WIDTH), dtype=np.float16)
    example = model.example(frames, "Grüße", task="st", language="de")
    assert example.source is frames
    assert [model.tokenizer.decode(part) for part in example.prompt] == ["", " Translate German to English:"]
    assert model.tokenizer.decode(example.answer[:-1]) == " Grüße"
    assert example.answer[-1] == model.tokenizer.eos_token_id
    source = model.example(" some text", "x", task="asr", language="de").source
    assert source.dtype == np.int64 and model.tokenizer.decode(source) == " some text"


def test_a_prompt_names_task_and_languages() -> None:
    assert prompt_text("asr", "en") == ("", " Transcribe English:")
    assert prompt_text("st", "de") == ("", " Translate German to English:")
    assert prompt_text("st", "en", target_language="fr") == ("", " Translate English to French:")
    turns = ("<user>", "<model>")
    assert prompt_text("asr", "de", turns=turns) == ("<user>Transcribe German:", "<model>German:")
    assert prompt_text("st", "en", "fr", turns=turns) == ("<user>Translate English to French:", "<model>French:")


def test_labels_are_answers_alone_and_end_at_the_right(new_model: Callable[[str], SlamModel]) -> None:
    model = new_model("llama")
    examples = examples_of(model, "frames")
    inputs, mask, labels = model.sequences(examples)
    assert labels.shape == (4, max(len(e.answer) for e in examples))
    for row, own, example in zip(labels, mask, examples, strict=True):
        assert tuple(row[-len(example.answer) :].tolist()) == example.answer
        assert (row[: -len(example.answer)] == -100).all()
        num_positions = -(-len(example.source) // STACK) + len(example.prompt.after) + len(example.answer)
        assert own.tolist() == [0] * (inputs.shape[1] - num_positions) + [1] * num_positions


def test_rows_are_padded_on_the_left() -> None:
    inputs, mask = left_pad([torch.ones(1, 2), 2 * torch.ones(3, 2)])
    assert inputs.tolist() == [[[0, 0], [0, 0], [1, 1]], [[2, 2], [2, 2], [2, 2]]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_tied_weights_are_counted_once(new_model: Callable[[str], SlamModel]) -> None:
    model = new_model("llama")
    projector = 2 * STACK * WIDTH + (STACK * WIDTH + 1) * 16 + (16 + 1) * 32
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32
    assert model.num_parameters() == projector + 3 * layer + 32 + 32 * len(model.tokenizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_model_comes_back_bit_for_bit(dtype: torch.dtype, model: SlamModel, tmp_path: Path) -> None:
    cast(model, dtype)
    model.save(tmp_path / "model")
    loaded = slamlab.load(tmp_path / "model")
    assert loaded.config == model.config
    assert not any(module.training for module in loaded.modules())
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == dtype and torch.equal(weight, expected[name]), name
    assert loaded.num_parameters() == model.num_parameters()  # tied as before
    inputs, mask, labels = model.sequences(examples_of(loaded, "frames"))
    logits = model.answer_logits(inputs, mask, labels.shape[1])
    assert torch.equal(loaded.answer_logits(inputs, mask, labels.shape[1]), logits)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model" / "decoder", dtype="auto")
    ids = torch.tensor([[5, 9, 40, 41, 42]])
    assert torch.equal(stock(ids).logits, model.decoder(ids).logits)


def test_a_change_of_type_leaves_rotary_frequencies_alone(new_model: Callable[[str], SlamModel]) -> None:
    model = new_model("llama")
    before = model.decoder.model.rotary_emb.inv_freq.clone()
    cast(model, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.decoder.model.rotary_emb.inv_freq, before)


@torch.no_grad()
def test_a_decoder_had_by_name_is_not_stored_again(
    new_model: Callable[[str], SlamModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model("llama")
    cast(model.decoder, torch.bfloat16)  # as published, whatever the type of what was trained
    published = tmp_path / "published"
    model.decoder.save_pretrained(published)
    model.tokenizer.save_pretrained(published)
    cast(model, torch.float32)
    config = SlamConfig(
        family="llama", scale="135m", encoder="toy", encoder_width=WIDTH, stack=STACK, projector_hidden=16
    )
    model.config = config
    model.save(tmp_path / "model", with_decoder=False)
    assert not (tmp_path / "model" / "decoder").exists()
    monkeypatch.setattr(decoders, "decoder_folder", lambda spec, cache: published)
    loaded = load(tmp_path / "model", cache=tmp_path)
    examples = examples_of(model, "frames")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded(examples), model(examples))


@pytest.mark.parametrize("missing", [CONFIG_FILE, PROJECTOR_FILE])
def test_an_incomplete_folder_is_refused(missing: str, new_model: Callable[[str], SlamModel], tmp_path: Path) -> None:
    new_model("llama").save(tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["stack"] == STACK
    (tmp_path / missing).unlink()
    with pytest.raises(AssetError, match=f"holds {missing}, got {tmp_path}"):
        load(tmp_path)
