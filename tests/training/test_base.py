"""Making a base: real synthesised speech, a real (if tiny and random) Whisper encoder, a miniature of two layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from slamlab.data.features import FeatureStore
from slamlab.data.pocket import PocketCorpus
from slamlab.data.synthesis import SplitSizes
from slamlab.data.utterance import Utterance
from slamlab.errors import DataError
from slamlab.model.slam import SlamModel
from slamlab.training.base import BaseRequest, Progress, make_base, teaching_jobs
from slamlab.zoo import decoders
from slamlab.zoo.profiles import BaseRecipe, TrainRecipe

RECIPE = BaseRecipe(
    text=TrainRecipe(num_steps=4, batch_size=8, peak_lr=5e-3),
    speech=TrainRecipe(num_steps=3, batch_size=4, peak_lr=5e-3),
    num_train=3,
    projector_hidden=16,
)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "d_model": 16,
        "encoder_layers": 1,
        "encoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_layers": 1,
        "decoder_ffn_dim": 16,
        "decoder_attention_heads": 2,
        "vocab_size": 9,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    whisper = WhisperModel(WhisperConfig(**sizes))
    whisper.save_pretrained(folder / "whisper")
    WhisperFeatureExtractor().save_pretrained(folder / "whisper")
    return FeatureStore(str(folder / "whisper"), folder / "features", folder / "cache")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PocketCorpus:
    sizes = SplitSizes(train=5, selection=1, test=1, test_voices=0)
    return PocketCorpus(tmp_path_factory.mktemp("pocket"), seed=0, sizes=sizes)


@pytest.fixture(autouse=True)
def two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decoders.MINI_SHAPE, "num_hidden_layers", 2)


def made(
    corpus: PocketCorpus,
    features: FeatureStore,
    cache: Path,
    recipe: BaseRecipe = RECIPE,
    seed: int = 0,
    **more: Any,
) -> tuple[list[Progress], SlamModel]:
    """Run the making to its end; return what it reported and the model."""
    request = BaseRequest(family="qwen", scale="mini", encoder="tiny", recipe=recipe, seed=seed, **more)
    steps, reported = make_base(request, corpus, features, cache), []
    while True:
        try:
            reported.append(next(steps))
        except StopIteration as end:
            return reported, end.value


def test_text_comes_before_speech(corpus: PocketCorpus, features: FeatureStore, tmp_path: Path) -> None:
    reported, model = made(corpus, features, tmp_path)
    num_heard = next(p.num_steps for p in reported if p.stage == "features")
    assert 3 <= num_heard <= 12  # of 3 sentences in 4 languages, those that 3 batches of 4 hold
    assert [(p.stage, p.step, p.num_steps) for p in reported] == [
        *(("text", step, 4) for step in range(1, 5)),
        ("features", num_heard, num_heard),
        *(("speech", step, 3) for step in range(1, 4)),
    ]
    assert all((p.loss is None) == (p.stage == "features") for p in reported)
    assert model.config.encoder == "tiny" and model.config.encoder_width == 16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())


def test_a_base_goes_on_from_another_by_speech_alone(
    corpus: PocketCorpus, features: FeatureStore, tmp_path: Path
) -> None:
    _, first = made(corpus, features, tmp_path)
    first.to(torch.bfloat16).save(tmp_path / "first")
    nothing = replace(RECIPE, speech=replace(RECIPE.speech, num_steps=0))
    _, same = made(corpus, features, tmp_path, nothing, init=tmp_path / "first")
    weights = first.float().state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in same.state_dict().items())
    reported, other = made(corpus, features, tmp_path, seed=1, init=tmp_path / "first")
    assert {p.stage for p in reported} == {"features", "speech"}
    assert not torch.equal(other.projector.up.weight, first.projector.up.weight)


def test_a_base_learns_the_languages_asked_for(corpus: PocketCorpus) -> None:
    heard = {(u.language, task) for u, task in teaching_jobs(corpus, 3, ("en", "de"))}
    assert heard == {("en", "asr"), ("de", "asr"), ("de", "st")}


def test_each_stage_trains_its_share(corpus: PocketCorpus, features: FeatureStore, tmp_path: Path) -> None:
    no_speech = BaseRecipe(
        text=RECIPE.text,
        speech=TrainRecipe(num_steps=0, batch_size=4, peak_lr=5e-3),
        num_train=3,
        projector_hidden=16,
    )
    nothing = BaseRecipe(speech=no_speech.speech, num_train=3, projector_hidden=16)
    (_, start), (_, after_text), (_, after_speech) = (
        made(corpus, features, tmp_path, recipe) for recipe in (nothing, no_speech, RECIPE)
    )

    def moved(one: SlamModel, other: SlamModel, part: str) -> bool:
        weights = other.state_dict()
        return not all(torch.equal(w, weights[name]) for name, w in one.state_dict().items() if name.startswith(part))

    assert moved(start, after_text, "decoder.") and not moved(start, after_text, "projector.")
    assert moved(after_text, after_speech, "decoder.") and moved(after_text, after_speech, "projector.")


def test_equal_seeds_give_equal_weights(corpus: PocketCorpus, features: FeatureStore, tmp_path: Path) -> None:
    (_, one), (_, same), (_, other) = (made(corpus, features, tmp_path, seed=seed) for seed in (0, 0, 1))
    weights = one.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in same.state_dict().items())
    assert not torch.equal(other.projector.up.weight, one.projector.up.weight)
    assert one.tokenizer.get_vocab() == same.tokenizer.get_vocab()


def test_a_corpus_without_a_train_split_is_refused(
    corpus: PocketCorpus, features: FeatureStore, tmp_path: Path
) -> None:
    class TestOnly:
        name, fingerprint, languages = "test-only", "0", corpus.languages
        problems: Sequence[str] = ()

        def has(self, task: str, language: str) -> bool:
            return corpus.has(task, language)

        def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
            return corpus.utterances(language, split, limit) if split == "test" else []

    request = BaseRequest(family="qwen", scale="mini", encoder="tiny", recipe=RECIPE, seed=0)
    with pytest.raises(DataError, match=r"train split, got none in test-only"):
        next(make_base(request, TestOnly(), features, tmp_path))
