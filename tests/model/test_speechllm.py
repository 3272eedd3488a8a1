"""SpeechLLMs of `transformers` against the stock wrapper: its own processor, its own forward pass, its own reload."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from peft import LoraConfig
from speechllms import KINDS, RATE, make_speechllm, waveforms
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    VoxtralConfig,
)

import slamlab
from slamlab.data.batching import Example
from slamlab.errors import DataError, ModelError
from slamlab.model import surgery
from slamlab.model.decode import generate
from slamlab.model.redundancy import ALL, AngularDistance, feed_speech
from slamlab.model.speechllm import SpeechLLM, load_speechllm
from slamlab.model.transcribe import cut, transcribe
from slamlab.training.heal import heal
from slamlab.zoo.encoders import SpeechEncoder, load_encoder
from slamlab.zoo.profiles import HealRecipe, TrainRecipe
from slamlab.zoo.towers import check_processor

LENGTHS_S = (1.0, 2.3, 0.7)
ANSWERS = ["yes", "the train leaves at half past eight", "half past"]


class World:
    """One SpeechLLM: its folder, the stock wrapper and processor, ours, and what our encoder made of some audio."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, make_speechllm(kind, folder / kind)
        self.cache = folder / "cache"
        self.stock: Any = AutoModelForSeq2SeqLM.from_pretrained(self.folder).eval()
        self.processor: Any = AutoProcessor.from_pretrained(self.folder)
        self.encoder: SpeechEncoder = load_encoder(str(self.folder), self.cache)
        self.audio = waveforms(*LENGTHS_S)
        self.frames = self.encoder.encode(self.audio)

    def model(self) -> SpeechLLM:
        return load_speechllm(str(self.folder))


@pytest.fixture(scope="module", params=sorted(KINDS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with KINDS[request.param].installed():
        yield World(request.param, tmp_path_factory.mktemp("speechllms"))


def projector_of(stock: Any) -> torch.nn.Module:
    return getattr(stock.model, "multi_modal_projector", None) or stock.model.projector


@torch.no_grad()
def stock_logits(world: World, stock: Any, model: SpeechLLM, waveform: np.ndarray, example: Example) -> torch.Tensor:
    """Return the stock wrapper's logits [A, V] at an answer's positions, of frames rounded to float16 as a store does.

    Nothing of ours is used but the token ids, with the placeholders where the processor put them.
    """
    inputs = dict(world.processor(text=[world.processor.audio_token], audio=[waveform], return_tensors="pt"))
    placeholders = [i for i in inputs["input_ids"][0].tolist() if i == stock.config.audio_token_id]
    before, after = example.prompt
    ids = torch.tensor([[*before, *placeholders, *after, *example.answer]])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    handle = projector_of(stock).register_forward_pre_hook(lambda _, args: (args[0].half().float(),))
    try:
        logits = stock(**inputs).logits[0, -len(example.answer) - 1 : -1]
    finally:
        handle.remove()
    # See the module's docstring: a Granite decoder by itself divides.
    return logits / getattr(stock.config.text_config, "logits_scaling", 1.0)


def examples_of(world: World, model: SpeechLLM) -> list[Example]:
    tasks = [("asr", "en"), ("st", "de"), ("asr", "en")]
    return [
        model.example(frames, answer, task=task, language=language)
        for frames, answer, (task, language) in zip(world.frames, ANSWERS, tasks, strict=True)
    ]


def assert_like_stock(world: World, stock: Any, model: SpeechLLM) -> None:
    """Compare the logits of answers, one by one and in a padded batch, with the stock wrapper's."""
    examples = examples_of(world, model)
    expected = [stock_logits(world, stock, model, *pair) for pair in zip(world.audio, examples, strict=True)]
    assert (expected[0][0] - expected[2][0]).abs().max() > 1e-3  # audio is heard: same prompt, another recording
    with torch.no_grad():
        inputs, mask, labels = model.sequences(examples)
        batch = model.answer_logits(inputs, mask, labels.shape[1])
        for i, example in enumerate(examples):
            inputs, mask, labels = model.sequences([example])
            alone = model.answer_logits(inputs, mask, labels.shape[1])[0]
            torch.testing.assert_close(alone, expected[i], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(batch[i, -len(example.answer) :], expected[i], rtol=1e-4, atol=1e-4)


def test_logits_are_those_of_the_stock_wrapper(world: World) -> None:
    assert_like_stock(world, world.stock, world.model())


@torch.no_grad()
def test_frames_are_what_the_stock_projector_is_given(world: World) -> None:
    alone = [world.encoder.encode([waveform])[0] for waveform in world.audio]
    for frames, again in zip(world.frames, alone, strict=True):
        assert frames.dtype == np.float16 and frames.shape[1] == world.encoder.width
        assert np.array_equal(frames, again)  # whatever shares the batch
    assert len({len(frames) for frames in world.frames}) == len(LENGTHS_S)


def test_a_request_is_the_processors_own_with_the_audio_in_its_place(world: World) -> None:
    model = world.model()
    before, after = model.prompt("st", "de")
    text = model.tokenizer.decode(before) + "|" + model.tokenizer.decode(after)
    assert "Translate German to Yiddish:" in model.tokenizer.decode(model.prompt("st", "de", "yi").after)
    assert "Translate German to English:" in text and text.startswith("<|im_start|>user") and "|" in text
    assert text.endswith("<|im_start|>assistant\n")
    own = getattr(world.processor, "default_transcription_prompt", "Transcribe English:")
    before, after = model.prompt("asr", "en")
    assert own in model.tokenizer.decode(before + after)
    assert model.tokenizer.eos_token == "<|im_end|>"  # what the template writes after an answer
    assert model.example(world.frames[0], "x", task="asr", language="en").answer[0] == model.tokenizer.encode("x")[0]


def test_the_map_of_redundancy_is_measured(world: World) -> None:
    model = world.model()
    with torch.inference_mode(), AngularDistance(model.decoder) as meter:
        meter.update(feed_speech(model, examples_of(world, model))[ALL])
    distance = meter.matrix()
    assert distance.shape == (5, 5)
    assert (distance[np.triu_indices(5, 1)] > 0).all() and (distance <= 1).all()


def test_a_pruned_and_healed_model_comes_back_in_stock_transformers(world: World, tmp_path: Path) -> None:
    model = world.model()
    block = surgery.LayerBlock(1, 2)
    pruned = model.with_decoder(surgery.without(model.decoder, block))
    assert len(surgery.decoder_layers(model.decoder)) == 4 and len(surgery.decoder_layers(pruned.decoder)) == 2
    before = {name: weight.clone() for name, weight in pruned.state_dict().items()}
    recipe = HealRecipe(
        r=4,
        alpha=4,
        dropout=0.0,
        train=TrainRecipe(num_steps=2, batch_size=2, peak_lr=1e-3, precision="fp32"),
        num_train=2,
    )
    examples = examples_of(world, pruned)
    with torch.no_grad():
        unhealed = float(pruned(examples[:2]))
    losses = [step.loss for step in heal(pruned, 0, iter(lambda: examples[:2], None), recipe, seed=0)]
    with torch.no_grad():
        healed = float(pruned(examples[:2]))  # not the losses of the steps: a Q-Former has dropout
    assert len(losses) == 2 and healed < unhealed
    changed = {name for name, weight in pruned.state_dict().items() if not torch.equal(weight, before[name])}
    assert any(name.startswith("projector.") for name in changed)
    assert {name.split(".layers.")[1][0] for name in changed if ".layers." in name} == {"0"}

    prefixes = pruned.prefixes([e.source for e in examples], [e.prompt for e in examples])
    answers = generate(pruned.decoder, prefixes, [5, 4, 3], eos_token_id=pruned.tokenizer.eos_token_id, pad_token_id=0)
    assert [0 < len(answer.tokens) <= cap for answer, cap in zip(answers, (5, 4, 3), strict=True)] == [True] * 3

    pruned.save(tmp_path / "pruned")
    assert not list((tmp_path / "pruned").glob("*.bin"))
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pruned").eval()
    assert stock.config.text_config.num_hidden_layers == 2
    assert type(stock) is type(world.stock)
    assert_like_stock(world, stock, pruned)
    loaded = slamlab.load(tmp_path / "pruned")
    assert loaded.config == model.config  # so that the first model's frames serve it
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, pruned.state_dict()[name]), name
    AutoProcessor.from_pretrained(tmp_path / "pruned")


def test_tied_embeddings_stay_tied(world: World, tmp_path: Path) -> None:
    model = world.model()
    tied = world.stock.get_output_embeddings().weight is world.stock.get_input_embeddings().weight
    for one in (model, model.with_decoder(surgery.without(model.decoder, surgery.LayerBlock(0, 1)))):
        embeddings = one.decoder.get_input_embeddings().weight
        assert (one.decoder.get_output_embeddings().weight is embeddings) == tied


def test_a_recording_beyond_the_window_is_refused_or_heard_whole(world: World) -> None:
    (long,) = waveforms(33.0)
    if world.kind == "qwen2_audio":
        with pytest.raises(DataError, match=r"hears 30 s at most, got 33\.0 s"):
            world.encoder.encode([long])
        return
    (frames,) = world.encoder.encode([long])
    (short,) = world.encoder.encode([long[: 30 * 16_000]])
    assert len(frames) > len(short)
    model = world.model()
    example = model.example(frames, "yes", task="asr", language="en")
    with torch.no_grad():
        inputs, mask, labels = model.sequences([example])
        logits = model.answer_logits(inputs, mask, labels.shape[1])[0]
    torch.testing.assert_close(logits, stock_logits(world, world.stock, model, long, example), rtol=1e-3, atol=1e-3)


def test_a_long_recording_is_heard_in_pieces_however_short_the_last(world: World, tmp_path: Path) -> None:
    loud = np.full(30 * RATE + 1, 0.3, np.float32)
    (first, last) = cut(loud, RATE)
    assert last[1] - last[0] < 0.06 * RATE, "some projectors make nothing of it"
    for name, waveform in (("long", loud), ("first", loud[: first[1]])):
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE)
    paths = [tmp_path / "long.wav", tmp_path / "first.wav"]
    long, alone = transcribe(world.model(), world.encoder, paths, task="asr", language="en", batch_size=2)
    assert [segment.end_s for segment in long.segments] == [first[1] / RATE, last[1] / RATE]
    assert long.segments[0] == alone.segments[0]
    if world.kind in ("glmasr", "qwen2_audio"):
        with pytest.raises(DataError, match=r"lasts long enough .*got 0\.03 s"):
            world.encoder.encode([loud[: int(0.03 * RATE)]])


def test_a_chat_template_that_leaves_out_what_is_asked_is_refused(world: World) -> None:
    model = world.model()
    model.processor.chat_template = model.tokenizer.chat_template = f"<|im_start|>{KINDS[world.kind].placeholder}"
    with pytest.raises(ModelError, match="leaves out the words beside it"):
        model.prompt("st", "de", "fr")


def test_what_is_no_speechllm_is_refused(tmp_path: Path) -> None:
    LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"an audio tower, a projector and a language model.*got llama.*Qwen2-Audio"):
        load_speechllm(str(tmp_path))


def test_granites_adapter_is_merged(tmp_path: Path) -> None:
    """It is on where there is audio, so logits with audio are those of the stock model with its adapter on."""
    with KINDS["granite_speech"].installed():
        plain = World("granite_speech", tmp_path)
        adapted: Any = AutoModelForSeq2SeqLM.from_pretrained(plain.folder)
        adapted.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=r".*language_model.*\.(q|v)_proj"))
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        adapted.save_pretrained(str(tmp_path / "adapted"))
        for name in ("adapter_config.json", "adapter_model.safetensors"):  # beside the plain weights, as published
            shutil.copy(tmp_path / "adapted" / name, plain.folder)
        model = plain.model()
        stock: Any = AutoModelForSeq2SeqLM.from_pretrained(plain.folder).eval()
        assert stock._hf_peft_config_loaded
        examples = examples_of(plain, model)
        without = stock_logits(plain, plain.stock, model, plain.audio[0], examples[0])
        assert (stock_logits(plain, stock, model, plain.audio[0], examples[0]) - without).abs().max() > 1e-2
        assert_like_stock(plain, stock, model)
        model.save(tmp_path / "saved")
        assert not (tmp_path / "saved" / "adapter_model.safetensors").exists()
        saved: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved").eval()
        assert not saved.config.has_lora_adapter
        assert_like_stock(plain, saved, model)


def test_a_processor_that_takes_audio_otherwise_is_refused(tmp_path: Path) -> None:
    """As is a Voxtral without its tokenizer."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = VoxtralConfig(
        audio_config=sizes | {"num_mel_bins": 16, "max_source_positions": 8},
        text_config=sizes | {"model_type": "llama", "vocab_size": 32, "num_key_value_heads": 1, "head_dim": 8},
        audio_token_id=24,
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="processor"):
        load_speechllm(str(tmp_path))

    class ByTextAlone:
        def __call__(self, text: list[str]) -> None: ...

    with pytest.raises(ModelError, match=r"text and audio in one call, got ByTextAlone"):
        check_processor(ByTextAlone())
