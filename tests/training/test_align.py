"""The first lesson: its loss against a sum over all alignments written out, and what it teaches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from slamlab.data.batching import Example, Prompt
from slamlab.model.slam import SlamModel
from slamlab.training import align
from slamlab.training.align import Aligner
from slamlab.training.base import stream_of
from slamlab.training.loop import train
from slamlab.zoo.profiles import TrainRecipe

END, WIDTH = 0, 6


def spoken(num_frames: int, *tokens: int, seed: int = 0) -> Example:
    frames = np.random.default_rng(seed).standard_normal((num_frames, WIDTH)).astype(np.float16)
    return Example(source=frames, prompt=Prompt((1,), (2,)), answer=(*tokens, END))


def by_hand(aligner: Aligner, example: Example, tokens: list[int]) -> float:
    """Return -log of the summed probability of every path that reads as the answer, in nats a token, and the pull."""
    projected = aligner.projector(torch.as_tensor(example.source).float()[None])[0].double()
    table = aligner.embeddings.double()
    cosines = torch.nn.functional.cosine_similarity(projected[:, None], table, dim=-1)
    p = (aligner.scale * cosines).softmax(-1).detach()
    total = 0.0
    for path in itertools.product(range(len(table)), repeat=len(p)):
        read = [symbol for symbol, _ in itertools.groupby(path) if symbol]
        if [tokens[symbol - 1] for symbol in read] == list(example.answer[:-1]):
            total += math.prod(float(p[i, symbol]) for i, symbol in enumerate(path))
    distances = [
        min((float(cosine), float((row - one).square().sum())) for cosine, one in zip(own, table, strict=True))
        for row, own in zip(projected.detach(), -cosines.detach(), strict=True)
    ]
    pull = align.PULL_WEIGHT * sum(d for _, d in distances) / len(p) / float(table.norm(dim=-1).mean()) ** 2
    return -math.log(total) / len(example.answer[:-1]) + pull


@pytest.mark.parametrize("answer", [(5,), (5, 7), (7, 7), (9, 5, 7)])
def test_loss_is_that_of_all_alignments_in_any_batch(
    new_model: Callable[..., SlamModel], answer: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = Aligner(new_model(), [7, 5, 9, 5])
    one, other = spoken(8, *answer), spoken(20, 5, 9, seed=1)
    expected = by_hand(aligner, one, [5, 7, 9])
    assert float(aligner([one]).detach()) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(align, "PULL_WEIGHT", 0.0)  # a pull on positions, however many a recording has
    expected = by_hand(aligner, one, [5, 7, 9])
    assert float(aligner([one, other]).detach()) == pytest.approx(
        (expected + float(aligner([other]).detach())) / 2, rel=1e-5
    )


def test_more_tokens_than_positions_count_for_nothing(
    new_model: Callable[..., SlamModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align, "PULL_WEIGHT", 0.0)
    assert float(Aligner(new_model(), [5, 7])([spoken(2, 5, 7, 5, 7)])) == 0


def test_the_projector_learns_what_it_hears_and_the_decoder_stays(
    new_model: Callable[..., SlamModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align, "SURE", 0.9999)  # so that the loss can come near 0
    slam = new_model()
    slam.decoder.requires_grad_(False)
    examples = [spoken(8, token, seed=token) for token in (5, 7, 9)]
    before = {name: tensor.clone() for name, tensor in slam.decoder.state_dict().items()}
    aligner = Aligner(slam, [5, 7, 9])
    losses = [
        step.loss
        for step in train(aligner, stream_of(examples, 3, 0), TrainRecipe(num_steps=150, batch_size=3, peak_lr=2e-2))
    ]
    assert losses[-1] < 0.05 < 1 < losses[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in slam.decoder.state_dict().items())
    heard = slam.projector(torch.as_tensor(examples[1].source).float()[None])[0]
    distances = torch.cdist(heard, aligner.embeddings)
    symbols = distances.argmin(-1).tolist()
    assert (distances.amin(-1) < 0.3 * aligner.embeddings.norm(dim=-1).mean()).all()
    assert [symbol for symbol, _ in itertools.groupby(symbols) if symbol] == [2]  # the second token that occurs, 7


def test_the_blank_stands_first_and_is_no_token_of_an_answer(new_model: Callable[..., SlamModel]) -> None:
    slam = new_model()
    blank = slam.tokenizer.encode(align.BLANK, add_special_tokens=False)[0]
    aligner = Aligner(slam, [7, blank, 5])
    assert aligner.symbols == [blank, 5, 7]
    assert float(aligner([spoken(8, 5, blank, 7)])) == float(aligner([spoken(8, 5, 7)]))
    assert torch.equal(aligner.embeddings[0], slam.decoder.get_input_embeddings().weight[blank].detach())


def test_it_learns_in_bf16_too(new_model: Callable[..., SlamModel]) -> None:
    examples = [spoken(8, token, seed=token) for token in (5, 7, 9)]
    recipe = TrainRecipe(num_steps=30, batch_size=3, peak_lr=2e-2, precision="bf16", zero_stage=1)
    losses = [step.loss for step in train(Aligner(new_model(), [5, 7, 9]), stream_of(examples, 3, 0), recipe)]
    assert losses[-1] < losses[0] / 2
