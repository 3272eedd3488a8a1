from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.stats import kendalltau, kstest

from slamlab.errors import DataError, OptionError
from slamlab.report.agreement import (
    AXES,
    MIN_STARTS,
    Map,
    chance_overlap,
    compare,
    compare_all,
    overall_tau,
    permutation_p,
    pooled_tau,
)


def smooth(rng: np.random.Generator, num_layers: int, sigma: float = 2.0) -> np.ndarray:
    """Return the distances of a decoder whose layers turn the stream at rates smooth along the layers."""
    rates = gaussian_filter1d(rng.normal(size=num_layers + 60), sigma)[30 : 30 + num_layers]
    turned = np.concatenate([[0.0], np.cumsum(np.exp(0.6 * (rates - rates.mean()) / rates.std()))])
    distance = np.abs(np.subtract.outer(turned, turned)) ** 0.7
    return distance / distance.max() * 0.45


def drifting(rng: np.random.Generator, num_layers: int, sigma: float = 2.0, width: int = 48) -> np.ndarray:
    """Return the angular distances of a random stream that forgets where it was, at rates smooth along the layers."""
    rates = gaussian_filter1d(rng.normal(size=num_layers + 60), sigma)[30 : 30 + num_layers]
    keeps = np.exp(-0.08 * np.exp(0.6 * (rates - rates.mean()) / rates.std()))
    stream = [rng.normal(size=width)]
    for keep in keeps:
        stream.append(keep * stream[-1] + np.sqrt(1 - keep**2) * rng.normal(size=width))
    unit = np.array(stream) / np.linalg.norm(stream, axis=1)[:, None]
    return np.arccos(np.clip(unit @ unit.T, -1, 1)) / np.pi


def a_map(distance: np.ndarray, key: str = "m01", resamples: int = 60, noise: float = 0.004, seed: int = 0) -> Map:
    rng = np.random.default_rng(seed)
    resampled = distance + noise * rng.normal(size=(resamples, *distance.shape))
    return Map(key=key, axes={}, num_utterances=64, distance=distance, resampled=resampled.astype(np.float32))


def by_depth(distance: np.ndarray) -> list[np.ndarray]:
    num_layers = len(distance) - 1
    return [np.diagonal(distance, n) for n in range(1, num_layers + 1) if num_layers + 1 - n >= MIN_STARTS]


def brute_within(a: np.ndarray, b: np.ndarray) -> float:
    agreeing, left, right = 0.0, 0, 0
    for x, y in zip(by_depth(a), by_depth(b), strict=True):
        for i, j in itertools.combinations(range(len(x)), 2):
            signs = float(np.sign(x[i] - x[j])), float(np.sign(y[i] - y[j]))
            agreeing += signs[0] * signs[1]
            left, right = left + (signs[0] != 0), right + (signs[1] != 0)
    return agreeing / np.sqrt(left * right)


def brute_overlap(a: np.ndarray, b: np.ndarray) -> float:
    shares = []
    for n, (x, y) in enumerate(zip(by_depth(a), by_depth(b), strict=True), 1):
        blocks = [set(range(start, start + n)) for start in (int(x.argmin()), int(y.argmin()))]
        shares.append(len(blocks[0] & blocks[1]) / len(blocks[0] | blocks[1]))
    return float(np.mean(shares))


@pytest.fixture
def pair() -> tuple[Map, Map]:
    rng = np.random.default_rng(3)
    first = smooth(rng, 12)
    return a_map(first, seed=1), a_map(first + 0.5 * smooth(rng, 12), "m02", seed=2)


def test_within_depths_is_kendalls_tau_of_equally_deep_blocks(pair: tuple[Map, Map]) -> None:
    a, b = pair
    found = compare(a, b)
    assert found.within.value == pytest.approx(brute_within(a.distance, b.distance))
    one_depth = pooled_tau(a.signs[0][: 12 * 11 // 2], b.signs[0][: 12 * 11 // 2])
    assert one_depth == pytest.approx(kendalltau(*(np.diagonal(one.distance, 1) for one in pair)).statistic)
    assert (found.num_depths, found.num_blocks) == (10, sum(range(3, 13)))
    assert found.num_pairs == sum(k * (k - 1) // 2 for k in range(3, 13))


def test_ties_count_as_in_scipy() -> None:
    rng = np.random.default_rng(0)
    coarse = [np.round(smooth(rng, 8), 1) for _ in range(2)]
    found = compare(*map(a_map, coarse))
    assert found.within.value == pytest.approx(brute_within(*coarse))
    blocks = [np.concatenate(by_depth(one)) for one in coarse]
    assert found.overall == pytest.approx(kendalltau(*blocks).statistic)
    assert overall_tau(*blocks) == pytest.approx(kendalltau(*blocks).statistic)


def test_depth_alone_is_no_agreement() -> None:
    """Maps that order the blocks of every depth the other way round still agree over all blocks."""
    num_layers = 16
    starts, ends = np.indices((num_layers + 1,) * 2)
    tilt = 0.01 * (starts + ends)
    depth = np.abs(ends - starts)
    found = compare(a_map(depth + tilt * (depth > 0)), a_map(depth - tilt * (depth > 0)))
    assert found.within.value == -1 and found.p == 1
    assert found.overall is not None and found.overall > 0.8


def test_intervals_are_percentiles_of_paired_resamples(pair: tuple[Map, Map]) -> None:
    a, b = pair
    found = compare(a, b)
    for estimate, brute in ((found.within, brute_within), (found.overlap, brute_overlap)):
        values = [brute(x.astype(float), y.astype(float)) for x, y in zip(a.resampled, b.resampled, strict=True)]
        low, high = np.quantile(values, [0.025, 0.975])
        assert estimate.value == pytest.approx(brute(a.distance, b.distance))
        assert estimate.ci95 == pytest.approx((min(low, estimate.value), max(high, estimate.value)))
    assert found.within.ci95 is not None and found.within.ci95[0] < found.within.ci95[1]


def test_shared_draws_cancel() -> None:
    rng = np.random.default_rng(0)
    distance, noise = smooth(rng, 12), 0.05 * rng.normal(size=(60, 13, 13))
    both = [Map(key="m", axes={}, num_utterances=9, distance=distance, resampled=distance + noise) for _ in range(2)]
    assert compare(*both).within.ci95 == (1, 1)
    shuffled = Map(key="m", axes={}, num_utterances=9, distance=distance, resampled=distance + noise[::-1])
    ends = compare(both[0], shuffled).within.ci95
    assert ends is not None and ends[0] < 0.8


def test_resamples_that_saw_nothing_are_left_out(pair: tuple[Map, Map]) -> None:
    a, b = pair
    holed = b.resampled.copy()
    holed[7] = np.nan
    kept = np.arange(60) != 7
    holed_b = Map(key="b", axes={}, num_utterances=64, distance=b.distance, resampled=holed)
    cut = [
        Map(key=one.key, axes={}, num_utterances=64, distance=one.distance, resampled=one.resampled[kept])
        for one in pair
    ]
    assert compare(a, holed_b).within == compare(*cut).within
    assert compare(a, holed_b).overlap == compare(*cut).overlap


def test_too_few_or_unpaired_resamples_give_no_interval(pair: tuple[Map, Map]) -> None:
    few = [a_map(one.distance, resamples=39) for one in pair]
    assert compare(*few).within.ci95 is None and compare(*few).within.value == compare(*pair).within.value
    assert compare(pair[0], few[1]).overlap.ci95 is None


@pytest.mark.parametrize("num_layers", [3, 4, 7, 12])
def test_chance_overlap_is_that_of_all_pairs_of_starts(num_layers: int) -> None:
    shares = []
    for n in range(1, num_layers + 2 - MIN_STARTS):
        blocks = [set(range(start, start + n)) for start in range(num_layers + 1 - n)]
        shares.append(np.mean([len(x & y) / len(x | y) for x in blocks for y in blocks]))
    assert chance_overlap(num_layers) == pytest.approx(np.mean(shares))


def test_a_map_agrees_with_itself_as_much_as_can_be() -> None:
    one = a_map(smooth(np.random.default_rng(0), 30))
    found = compare(one, one)
    assert (found.within.value, found.within.ci95, found.overlap.value) == (1, (1, 1), 1)
    assert found.p == 1 / 2001
    assert found.is_identical
    almost = a_map(one.distance + 1e-12)
    assert not compare(one, almost).is_identical and compare(one, almost).p == 1 / 2001


def test_few_layers_cannot_be_significant() -> None:
    one = a_map(smooth(np.random.default_rng(0), 4))
    found = compare(one, one)
    assert found.p is not None and found.p > 0.05  # eight patterns of signs


@pytest.mark.parametrize("made", [smooth, drifting])
@pytest.mark.parametrize("sigma", [0.5, 2.0, 4.0])
def test_p_is_uniform_on_unrelated_smooth_maps(made: Any, sigma: float) -> None:
    rng = np.random.default_rng(11)
    p = []
    for trial in range(250):
        a, b = (a_map(made(rng, 14, sigma), resamples=0) for _ in range(2))
        p.append(permutation_p(a, b, num_permutations=199, seed=trial))
    rejected = np.mean(np.array(p) <= 0.05)
    assert 0.02 <= rejected <= 0.09
    assert kstest(p, "uniform").pvalue > 0.002


def test_p_falls_where_maps_are_related() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(20):
        common = smooth(rng, 14, 0.5)
        a, b = (a_map(common + 0.2 * smooth(rng, 14, 0.5), resamples=0) for _ in range(2))
        found.append(permutation_p(a, b, num_permutations=199, seed=0))
    assert np.median(found) <= 0.01


def test_p_is_of_its_seed(pair: tuple[Map, Map]) -> None:
    rng = np.random.default_rng(8)
    a, b = (a_map(smooth(rng, 12), resamples=0) for _ in range(2))
    p = [permutation_p(a, b, num_permutations=500, seed=seed) for seed in (0, 0, 1)]
    assert p[0] == p[1] != p[2]


def test_maps_that_order_nothing_have_no_tau() -> None:
    depth = np.abs(np.subtract.outer(np.arange(9), np.arange(9))).astype(float)
    found = compare(a_map(depth), a_map(smooth(np.random.default_rng(0), 8)))
    assert found.within.value is None and found.within.ci95 is None and found.p is None
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["within"] == {"value": None, "ci95": None}


def test_what_cannot_be_compared_is_refused(pair: tuple[Map, Map]) -> None:
    with pytest.raises(OptionError, match="equally many layers"):
        compare(pair[0], a_map(smooth(np.random.default_rng(0), 8)))
    with pytest.raises(OptionError, match="19 permutations"):
        compare(*pair, num_permutations=18)
    with pytest.raises(DataError, match="3 layers or more"):
        a_map(np.zeros((3, 3)))
    with pytest.raises(DataError, match="finite"):
        a_map(np.full((5, 5), np.nan))
    with pytest.raises(DataError, match=r"\[L\+1, L\+1\]"):
        Map(key="m", axes={}, num_utterances=1, distance=np.zeros((5, 5)), resampled=np.zeros((9, 4, 4)))


def _records(*changes: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    maps, arrays = [], {}
    for i, change in enumerate(changes, 1):
        one = dict(zip(AXES, ("qwen", "mini", "whisper-base", "asr", "en", "base", "text", "all"), strict=True))
        one = {"key": f"m{i:02d}", **one, "num_utterances": 20, "num_layers": 6, "status": "complete", **change}
        maps.append(one)
        if one["status"] == "complete":
            made = a_map(smooth(rng, one["num_layers"]))
            arrays |= {f"{one['key']}.distance": made.distance, f"{one['key']}.resampled": made.resampled}
    return maps, arrays


def test_pairs_differ_in_one_axis() -> None:
    maps, arrays = _records(
        {},
        {"view": "speech"},
        {"view": "speech", "selection": "audio"},
        {"view": "speech", "language": "de"},
        {"view": "speech", "decoder": "lora"},
        {"view": "speech", "task": "st", "status": "not run", "num_layers": None},
        {"scale": "1b", "num_layers": 5},
    )
    pairs = compare_all(maps, arrays, num_permutations=99, seed=4)
    told = [(pair["a"], pair["b"], pair["axis"], pair["status"]) for pair in pairs]
    assert told == [
        ("m01", "m02", "view", "complete"),
        ("m01", "m07", "scale", "left out"),
        ("m02", "m03", "selection", "complete"),
        ("m02", "m04", "language", "complete"),
        ("m02", "m05", "decoder", "complete"),
    ]
    assert pairs[0]["values"] == ["text", "speech"] and "6 and 5 layers" in pairs[1]["reason"]
    assert pairs[0]["num_utterances"] == 20 and (pairs[0]["num_permutations"], pairs[0]["seed"]) == (99, 4)
    assert json.loads(json.dumps(pairs, allow_nan=False)) == pairs


def test_a_complete_map_needs_its_arrays() -> None:
    maps, arrays = _records({}, {"view": "speech"})
    del arrays["m02.resampled"]
    with pytest.raises(DataError, match=r"m02\.resampled"):
        compare_all(maps, arrays)
