from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slamlab.data.batching import Prompt
from slamlab.errors import ModelError
from slamlab.model.redundancy import CHUNK_POSITIONS, AngularDistance, select_positions
from slamlab.model.slam import cast, left_pad
from slamlab.model.surgery import decoder_layers


def run(decoder, inputs, mask):
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return decoder(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False)


def stream_of(decoder, sequence):
    """The residual stream [L + 1, N, D], layer by layer; its last entry is what enters the final norm."""
    captured = []
    modules = [*decoder_layers(decoder), decoder.get_decoder().norm]

    def capture(module, args, kwargs):
        captured.append(args[0] if args else kwargs["hidden_states"])

    handles = [module.register_forward_pre_hook(capture, with_kwargs=True) for module in modules]
    run(decoder, sequence[None], torch.ones(1, len(sequence), dtype=torch.long))
    for handle in handles:
        handle.remove()
    return torch.cat(captured)


def naive(decoder, sequences):
    streams = torch.cat([stream_of(decoder, row) for row in sequences], dim=1).double()
    size = len(streams)
    matrix = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            cosine = torch.nn.functional.cosine_similarity(streams[i], streams[j], dim=-1).clamp(-1, 1)
            matrix[i, j] = (cosine.arccos() / math.pi).mean() if i != j else 0.0
    return matrix


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_equals_pairs_one_by_one_padded_or_not(decoder, sequences, dtype):
    exact = naive(decoder, sequences)
    cast(decoder, dtype)
    sequences = [row.to(dtype) for row in sequences]
    expected = naive(decoder, sequences)
    np.testing.assert_allclose(expected, exact, atol=1e-5 if dtype == torch.float32 else 2e-3)
    inputs, mask = left_pad(sequences)
    with AngularDistance(decoder) as meter:
        run(decoder, inputs, mask)
        meter.update(mask.bool())
        padded = meter.matrix()
    with AngularDistance(decoder) as meter:
        for row in sequences:
            one = torch.ones(1, len(row), dtype=torch.bool)
            run(decoder, row[None], one.long())
            meter.update(one)
        single = meter.matrix()
    assert meter.num_positions == sum(map(len, sequences))
    # In bf16 some CPUs round a row of a batch otherwise than the row alone.
    np.testing.assert_allclose(padded, expected, atol=1e-5 if dtype == torch.float32 else 1e-3)
    np.testing.assert_allclose(single, expected, atol=1e-5)
    assert expected[0, 1] > 0.01 and expected[-2, -1] > 0.01  # both ends have something to measure


def test_the_matrix_is_symmetric_with_a_zero_diagonal(decoder, sequences):
    with AngularDistance(decoder) as meter:
        run(decoder, sequences[0][None], torch.ones(1, 9, dtype=torch.long))
        meter.update(torch.ones(1, 9, dtype=torch.bool))
    matrix = meter.matrix()
    assert np.array_equal(matrix, matrix.T) and not matrix.diagonal().any()
    assert matrix.shape == (len(decoder_layers(decoder)) + 1,) * 2 and matrix.dtype == np.float64


def test_only_selected_positions_count(decoder, sequences):
    chosen = torch.zeros(1, 14, dtype=torch.bool)
    chosen[0, [2, 13]] = True
    with AngularDistance(decoder) as meter:
        run(decoder, sequences[2][None], torch.ones(1, 14, dtype=torch.long))
        meter.update(chosen)
    stream = stream_of(decoder, sequences[2])[:, [2, 13]]
    cosine = torch.nn.functional.cosine_similarity(stream[1], stream[3], dim=-1)
    assert meter.matrix()[1, 3] == pytest.approx((cosine.arccos() / math.pi).mean().item(), abs=1e-5)


def test_more_positions_than_a_chunk(new_decoder):
    decoder = new_decoder("llama")
    row = torch.randn(CHUNK_POSITIONS + 9, 32, generator=torch.Generator().manual_seed(3))
    with AngularDistance(decoder) as meter:
        run(decoder, row[None], torch.ones(1, len(row), dtype=torch.long))
        meter.update(torch.ones(1, len(row), dtype=torch.bool))
    np.testing.assert_allclose(meter.matrix(), naive(decoder, [row]), atol=1e-5)


def test_the_decoder_is_left_without_hooks(new_decoder, sequences):
    decoder = new_decoder("qwen3")
    with AngularDistance(decoder):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in decoder_layers(decoder))


def test_nothing_counted_is_refused(new_decoder, sequences):
    decoder = new_decoder("llama")
    with AngularDistance(decoder) as meter:
        run(decoder, sequences[0][None], torch.ones(1, 9, dtype=torch.long))
        meter.update(torch.zeros(1, 9, dtype=torch.bool))
    with pytest.raises(ModelError, match="mean over positions"):
        meter.matrix()


def test_a_pass_is_counted_once(new_decoder, sequences):
    decoder, mask = new_decoder("llama"), torch.ones(1, 9, dtype=torch.bool)
    with AngularDistance(decoder) as meter:
        run(decoder, sequences[0][None], mask.long())
        with pytest.raises(ModelError, match="shape"):
            meter.update(mask[:, 1:])
        meter.update(mask)
        with pytest.raises(ModelError, match="call the model first"):
            meter.update(mask)


def test_a_stream_that_is_not_finite_is_refused(new_decoder, sequences):
    decoder, mask = new_decoder("llama"), torch.ones(1, 9, dtype=torch.bool)
    with AngularDistance(decoder) as meter:
        run(decoder, sequences[0][None] * float("nan"), mask.long())
        meter.update(mask)
    with pytest.raises(ModelError, match="finite"):
        meter.matrix()


def test_selections_are_averaged_apart_in_one_pass(new_decoder, sequences):
    decoder = new_decoder("qwen2")
    inputs, mask = left_pad(sequences)
    even = mask.bool() & (torch.arange(mask.shape[1]) % 2 == 0)
    with AngularDistance(decoder, ("all", "even")) as meter:
        run(decoder, inputs, mask)
        meter.update({"all": mask.bool(), "even": even})
        with pytest.raises(ModelError, match="selects all, even, got all"):
            run(decoder, inputs, mask)
            meter.update({"all": mask.bool()})
    for name, chosen in (("all", mask.bool()), ("even", even)):
        with AngularDistance(decoder) as alone:
            run(decoder, inputs, mask)
            alone.update(chosen)
        np.testing.assert_allclose(meter.map(name).distance, alone.matrix(), atol=1e-12)
        assert meter.map(name).num_positions == int(chosen.sum())
        assert meter.map(name).num_utterances == int(chosen.any(1).sum())


def test_resamples_count_whole_utterances_as_they_were_drawn(new_decoder, sequences):
    decoder, num_resamples = new_decoder("llama"), 25
    with AngularDistance(decoder, num_resamples=num_resamples, seed=4) as meter:
        for row in sequences:
            run(decoder, row[None], torch.ones(1, len(row), dtype=torch.long))
            meter.update(torch.ones(1, len(row), dtype=torch.bool))
    draws = np.random.default_rng(4)
    counts = np.stack([draws.poisson(1.0, size=num_resamples) for _ in sequences])  # [N, R]
    own = [naive(decoder, [row]) for row in sequences]
    lengths = np.array([len(row) for row in sequences])
    expected = [
        sum(count * length * matrix for count, length, matrix in zip(column, lengths, own, strict=True))
        / (column * lengths).sum()
        if column.any()
        else np.full_like(own[0], np.nan)
        for column in counts.T
    ]
    np.testing.assert_allclose(meter.map("all").resampled, expected, atol=1e-5)


def test_a_resample_that_draws_nothing_keeps_its_place(new_decoder, sequences):
    decoder = new_decoder("llama")
    with AngularDistance(decoder, num_resamples=60) as meter:
        run(decoder, sequences[0][None], torch.ones(1, 9, dtype=torch.long))
        meter.update(torch.ones(1, 9, dtype=torch.bool))
    drawn = np.random.default_rng(0).poisson(1.0, size=60) > 0
    resampled = meter.map("all").resampled
    assert 0 < drawn.sum() < 60
    np.testing.assert_array_equal(np.isfinite(resampled[:, 0, 1]), drawn)
    np.testing.assert_allclose(resampled[drawn], np.broadcast_to(meter.matrix(), (drawn.sum(), *meter.matrix().shape)))


def test_resamples_neither_depend_on_batches_nor_on_how_often_one_looks(new_decoder, sequences):
    decoder = new_decoder("qwen3")
    inputs, mask = left_pad(sequences)
    with AngularDistance(decoder, num_resamples=10, seed=1) as batched:
        run(decoder, inputs, mask)
        batched.update(mask.bool())
        first = batched.map("all")
    with AngularDistance(decoder, num_resamples=10, seed=1) as single:
        for row in sequences:
            run(decoder, row[None], torch.ones(1, len(row), dtype=torch.long))
            single.update(torch.ones(1, len(row), dtype=torch.bool))
    np.testing.assert_allclose(first.resampled, single.map("all").resampled, atol=1e-5)
    np.testing.assert_array_equal(first.resampled, batched.map("all").resampled)


def test_the_spread_of_resamples_is_that_of_other_utterances(new_decoder):
    """Poisson bootstrap against the spread of means over many corpora of the same kind."""
    decoder, generator = new_decoder("llama"), torch.Generator().manual_seed(0)

    def corpus_map(num_resamples=0):
        rows = [
            torch.randn(5, 32, generator=generator) * scale
            for scale in torch.rand(30, generator=generator).mul(3).add(0.1)
        ]
        inputs, mask = left_pad(rows)
        with AngularDistance(decoder, num_resamples=num_resamples) as meter:
            run(decoder, inputs, mask)
            meter.update(mask.bool())
        return meter.map("all")

    spread = np.std([corpus_map().distance[0, 2] for _ in range(120)], ddof=1)
    told = np.mean([corpus_map(200).resampled[:, 0, 2].std(ddof=1) for _ in range(10)])
    assert told == pytest.approx(spread, rel=0.25)


def test_positions_of_a_sequence_are_told_apart():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    found = select_positions(mask, [Prompt((), (1, 2)), Prompt((3,), (1, 2))], [3, 1])
    expected = {
        "all": ["..xxxxxx", "xxxxxxxx"],
        "audio": ["..x.....", ".xxxx..."],
        "prompt": ["...xx...", "x....xx."],
        "answer": [".....xxx", ".......x"],
        "last": [".......x", ".......x"],
    }
    assert {
        name: ["".join(".x"[int(one)] for one in row) for row in chosen] for name, chosen in found.items()
    } == expected
