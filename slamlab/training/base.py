"""Making an unpruned SLAM model: from a pretrained decoder, or from random weights in two stages.

A pretrained decoder stays frozen and only the projector learns (SLAM-ASR, arXiv 2402.08846), if the recipe says so
after a first lesson (:mod:`slamlab.training.align`). A miniature decoder has no
past, so it is first given one: it learns to repeat and to translate *text* in the very layout that speech will have
later (source, prompt, answer), then decoder and projector learn from speech together.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slamlab.data.batching import Example, batches
from slamlab.data.features import FeatureStore
from slamlab.data.joined import JoinedCorpus
from slamlab.data.utterance import Corpus, Utterance
from slamlab.errors import DataError
from slamlab.model.slam import SlamConfig, SlamModel, load, prompt_text
from slamlab.training.align import Aligner
from slamlab.training.loop import Step, train
from slamlab.zoo.decoders import find_decoder, load_decoder, new_mini, train_tokenizer
from slamlab.zoo.profiles import BaseRecipe, TrainRecipe

TASKS = ("asr", "st")
FEATURES_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class BaseRequest:
    """Which base to make.

    Attributes:
        family: Decoder family.
        scale: Decoder scale.
        encoder: Speech encoder.
        recipe: How it is trained.
        seed: Seed of the initial weights and of every shuffle.
        languages: Spoken languages to learn, None for all of the corpus.
        init: Folder of a base to go on from, by the recipe's last stage; None to begin anew.
    """

    family: str
    scale: str
    encoder: str
    recipe: BaseRecipe
    seed: int
    languages: tuple[str, ...] | None = None
    init: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One step of one stage of the making: `features`, `text`, `align` or `speech`; or a note, to be said at once."""

    stage: str
    step: int
    num_steps: int
    loss: float | None = None
    note: str = ""


def make_base(
    request: BaseRequest, corpus: Corpus, features: FeatureStore, cache: Path
) -> Generator[Progress, None, SlamModel]:
    """Train a base on every language and task of a corpus; yield progress and return the model.

    Corpora that are joined teach in equal shares: the smaller ones more than once while the largest is gone through.

    Args:
        request: What to make.
        corpus: Its `train` split is used, and nothing else of it.
        features: Frames of the request's encoder.
        cache: Where pretrained decoders are kept.
    """
    recipe = request.recipe
    jobs = teaching_jobs(corpus, recipe.num_train, request.languages)
    if not jobs:
        raise DataError("a corpus to train a base on has a train split", f"none in {corpus.name}", "add utterances")
    torch.manual_seed(request.seed)
    is_pretrained = find_decoder(request.family, request.scale).is_pretrained
    if request.init is None:
        model = _new_model(request, jobs, features, cache)
    else:
        model = load(request.init, cache=cache).float()
    model.decoder.requires_grad_(not is_pretrained)
    if recipe.text is not None and not is_pretrained and request.init is None:
        model.projector.requires_grad_(False)
        pairs = [model.example(" " + u.text, u.target(task), task=task, language=u.language) for u, task in jobs]
        stream = stream_of(pairs, recipe.text.batch_size, request.seed)
        yield from _reported("text", train(model, stream, recipe.text))
        model.projector.requires_grad_(True)
    stages: list[tuple[str, list[tuple[Utterance, str]], TrainRecipe]] = [("speech", jobs, recipe.speech)]
    if recipe.align is not None and is_pretrained and request.init is None:
        stages.insert(0, ("align", [job for job in jobs if job[1] == "asr"], recipe.align))
    yield from compute_features(features, _heard(stages, request.seed))
    for stage, taught, how in stages:
        stream = speech_stream(model, taught, features, how.batch_size, request.seed)
        if stage == "align":
            yield from _reported(stage, train(Aligner(model, _tokens(model, taught)), stream, how))
        else:
            yield from _reported(stage, train(model, stream, how))
    return model.float()


def _new_model(
    request: BaseRequest, jobs: Sequence[tuple[Utterance, str]], features: FeatureStore, cache: Path
) -> SlamModel:
    """Return a model that has learned nothing of speech."""
    spec = find_decoder(request.family, request.scale)
    decoder: Any
    tokenizer: Any
    if spec.is_pretrained:
        decoder, tokenizer = load_decoder(request.family, request.scale, cache)
    else:
        prompts = sorted({prompt_text(task, u.language)[1] for u, task in jobs})
        texts = sorted({" " + u.target(task) for u, task in jobs} | {" " + u.text for u, _ in jobs})
        # Prompts stand in every sequence: repeated, each becomes a few tokens.
        tokenizer = train_tokenizer([*texts, *prompts * (len(texts) // 100 + 1)])
        decoder = new_mini(spec, tokenizer, request.seed)
    config = SlamConfig(
        family=request.family,
        scale=request.scale,
        encoder=request.encoder,
        encoder_width=features.spec.width,
        stack=request.recipe.stack,
        projector_hidden=request.recipe.projector_hidden,
    )
    return SlamModel(config, decoder, tokenizer)


def teaching_jobs(
    corpus: Corpus, num_train: int, languages: Collection[str] | None = None
) -> list[tuple[Utterance, str]]:
    """Return what a base learns, as (utterance, task); of joined corpora as much of each.

    Args:
        corpus: Whose `train` split is taken.
        num_train: Utterances a language, of each corpus that was joined.
        languages: Spoken in them, None for all.
    """
    joined = corpus if isinstance(corpus, JoinedCorpus) else None
    of_part = [
        [
            (utterance, task)
            for code in part.languages
            if languages is None or code in languages
            for utterance in (
                joined.of_part(name, code, "train", num_train) if joined else part.utterances(code, "train", num_train)
            )
            for task in TASKS
            if part.has(task, code)
        ]
        for name, part in (joined.parts if joined else {corpus.name: corpus}).items()
    ]
    longest = max(map(len, of_part))
    return [job for part in of_part if part for job in islice(cycle(part), longest)]


def _job_batches(jobs: Sequence[tuple[Utterance, str]], batch_size: int, seed: int) -> Iterator[list[int]]:
    return batches([round(100 * u.duration_s) for u, _ in jobs], batch_size, seed)


def _heard(stages: Sequence[tuple[str, list[tuple[Utterance, str]], TrainRecipe]], seed: int) -> list[Utterance]:
    """Return the utterances that the batches of all stages hold, of all that there are to learn from."""
    heard: dict[str, Utterance] = {}
    for _, jobs, recipe in stages:
        for picked in islice(_job_batches(jobs, recipe.batch_size, seed), recipe.num_steps):
            heard |= {jobs[i][0].id: jobs[i][0] for i in picked}
    return list(heard.values())


def _tokens(model: SlamModel, jobs: Sequence[tuple[Utterance, str]]) -> set[int]:
    """Return the tokens of all answers."""
    nothing = np.empty((0, 0), dtype=np.float16)
    answers = (model.example(nothing, u.target(task), task=task, language=u.language).answer for u, task in jobs)
    return {token for answer in answers for token in answer}


def compute_features(features: FeatureStore, utterances: Sequence[Utterance]) -> Iterator[Progress]:
    """Bring the frames of utterances into the store, a few at a time; yield progress."""
    for begin in range(0, len(utterances), FEATURES_AT_ONCE):
        features.ensure(utterances[begin : begin + FEATURES_AT_ONCE])
        yield Progress(stage="features", step=min(begin + FEATURES_AT_ONCE, len(utterances)), num_steps=len(utterances))


def speech_stream(
    model: SlamModel,
    jobs: Sequence[tuple[Utterance, str]],
    features: FeatureStore,
    batch_size: int,
    seed: int,
    skip: int = 0,
) -> Iterator[list[Example]]:
    """Yield endless batches of (utterance, task) pairs, reading each batch's frames when it is asked for.

    The first `skip` batches are left out, unread: they taught what now goes on to learn.
    """
    for picked in islice(_job_batches(jobs, batch_size, seed), skip, None):
        frames = features.get([jobs[i][0] for i in picked])
        yield [
            model.example(source, u.target(task), task=task, language=u.language)
            for source, (u, task) in zip(frames, (jobs[i] for i in picked), strict=True)
        ]


def stream_of(examples: Sequence[Example], batch_size: int, seed: int) -> Iterator[list[Example]]:
    """Yield endless batches of examples held in memory."""
    for picked in batches([len(e.source) + len(e.answer) for e in examples], batch_size, seed):
        yield [examples[i] for i in picked]


def _reported(stage: str, steps: Iterator[Step]) -> Iterator[Progress]:
    for step in steps:
        yield Progress(stage=stage, step=step.step, num_steps=step.num_steps, loss=step.loss)
