import math
from fractions import Fraction

import numpy as np
import pytest

from slamlab.errors import DataError, OptionError
from slamlab.scoring import bootstrap
from slamlab.scoring.bleu import bleu_of_sums
from slamlab.scoring.bootstrap import Statistics, paired_relative_degradation, score_interval


def _wer_statistics(edits, words):
    return Statistics(ids=[f"u{index}" for index in range(len(edits))], values=np.stack([edits, words], axis=1))


def _random_wer_pair(seed, num_utterances=40):
    generator = np.random.default_rng(seed)
    words = generator.integers(3, 15, size=num_utterances)
    base = generator.binomial(words, 0.3)
    return _wer_statistics(base, words), _wer_statistics(
        base + generator.integers(-1, 3, num_utterances).clip(0), words
    )


def _random_bleu_pair(seed, num_utterances=12):
    generator = np.random.default_rng(seed)
    totals = generator.integers(5, 15, size=(num_utterances, 1)) - np.arange(4)
    reference_lengths = totals[:, :1] + generator.integers(-1, 3, size=(num_utterances, 1))

    def statistics(rate):
        correct = generator.binomial(totals, rate ** np.arange(1, 5))
        values = np.concatenate([totals[:, :1], reference_lengths, correct, totals], axis=1)
        return Statistics(ids=[f"u{index:02}" for index in range(num_utterances)], values=values)

    return statistics(0.8), statistics(0.7)


def _order(statistics):
    return sorted(range(len(statistics.ids)), key=lambda row: statistics.ids[row])


def _draws(num_utterances, num_resamples, seed):
    return np.random.default_rng(seed).integers(0, num_utterances, size=(num_resamples, num_utterances))


def _interval(degradations):
    ranked = sorted(degradations)
    tail = len(ranked) // 40
    return ranked[tail], ranked[-1 - tail]


@pytest.mark.parametrize("seed", range(3))
def test_wer_agrees_with_brute_force_in_exact_arithmetic(seed):
    base, pruned = _random_wer_pair(seed)
    ours = paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=400, seed=seed)
    order, degradations = _order(base), []
    for draw in _draws(len(order), 400, seed):
        rows = [order[index] for index in draw]
        words = sum(int(base.values[row, 1]) for row in rows)
        base_wer = Fraction(sum(int(base.values[row, 0]) for row in rows), words)
        pruned_wer = Fraction(sum(int(pruned.values[row, 0]) for row in rows), words)
        degradations.append((pruned_wer - base_wer) / base_wer)
    assert ours.ci95 == pytest.approx([float(end) for end in _interval(degradations)], abs=1e-12)
    assert ours.p_within == pytest.approx(sum(d <= Fraction(1, 4) for d in degradations) / 400, abs=1e-12)
    assert ours.se == pytest.approx(np.std([float(d) for d in degradations], ddof=1), abs=1e-12)
    assert 0 < ours.p_within < 1
    point = pruned.values[:, 0].sum() / base.values[:, 0].sum() - 1
    assert ours.value == pytest.approx(point, abs=1e-12)


def test_bleu_agrees_with_brute_force():
    base, pruned = _random_bleu_pair(seed=0)
    ours = paired_relative_degradation(base, pruned, "bleu", tolerance=0.2, num_resamples=300, seed=4)
    degradations = []
    for draw in _draws(len(base.ids), 300, seed=4):
        before, after = (float(bleu_of_sums(side.values[draw].sum(axis=0))) for side in (base, pruned))
        degradations.append((before - after) / before)
    assert ours.ci95 == pytest.approx(_interval(degradations), abs=1e-12)
    assert ours.p_within == pytest.approx(np.mean(np.array(degradations) <= 0.2), abs=1e-12)
    assert ours.se == pytest.approx(np.std(degradations, ddof=1), abs=1e-12)
    before, after = (float(bleu_of_sums(side.values.sum(axis=0))) for side in (base, pruned))
    assert ours.value == pytest.approx((before - after) / before, abs=1e-12)


@pytest.mark.parametrize("make_pair", [_random_wer_pair, _random_bleu_pair])
def test_neither_chunks_nor_the_order_of_utterances_change_anything(make_pair, monkeypatch):
    metric = "wer" if make_pair is _random_wer_pair else "bleu"
    base, pruned = make_pair(1)
    once = paired_relative_degradation(base, pruned, metric, tolerance=0.1, num_resamples=101, seed=2)
    monkeypatch.setattr(bootstrap, "CHUNK_BYTES", 7 * 8 * len(base.ids))
    shuffle = np.random.default_rng(0).permutation(len(base.ids))
    shuffled = Statistics(ids=[base.ids[row] for row in shuffle], values=base.values[shuffle])
    assert paired_relative_degradation(shuffled, pruned, metric, tolerance=0.1, num_resamples=101, seed=2) == once
    other_seed = paired_relative_degradation(base, pruned, metric, tolerance=0.1, num_resamples=101, seed=3)
    assert other_seed.ci95 != once.ci95


def _paired_world(generator, num_utterances, num_speakers=0):
    """Return statistics of base and pruned whose true degradation is 0.2; utterances differ in length and rate."""
    words = generator.integers(3, 25, num_utterances)
    difficulty = generator.beta(1.2, 8, num_utterances)  # mean 0.13
    factor = np.full(num_utterances, 1.2)
    speakers = np.zeros(0, dtype=int)
    if num_speakers:
        speakers = np.arange(num_utterances) % num_speakers
        # What pruning costs differs from speaker to speaker, and is 0.2 on the average.
        factor = generator.uniform(0.6, 1.8, num_speakers)[speakers]
    base = generator.binomial(words, np.minimum(difficulty, 0.5))
    pruned = generator.binomial(words, np.minimum(difficulty, 0.5) * factor)
    blocks = [f"s{one}" for one in speakers]
    return (
        Statistics(ids=[f"u{i}" for i in range(num_utterances)], values=np.stack([edits, words], axis=1), blocks=blocks)
        for edits in (base, pruned)
    )


def _coverage(num_sets, num_utterances, num_speakers=0, forget_speakers=False):
    covered = 0
    for seed in range(num_sets):
        base, pruned = _paired_world(np.random.default_rng(seed), num_utterances, num_speakers)
        if forget_speakers:
            base, pruned = (Statistics(ids=one.ids, values=one.values) for one in (base, pruned))
        lo, hi = paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=400, seed=seed).ci95
        covered += lo <= 0.2 <= hi
    return covered / num_sets


def test_interval_covers_the_truth_as_often_as_it_says():
    assert 0.93 <= _coverage(2000, 200) <= 0.97


def test_speakers_are_drawn_where_utterances_of_one_are_alike():
    assert 0.91 <= _coverage(400, 600, num_speakers=40) <= 0.98
    assert _coverage(400, 600, num_speakers=40, forget_speakers=True) < 0.90


def test_blocks_are_drawn_whole():
    base, pruned = _random_wer_pair(3, num_utterances=12)
    speakers = [f"s{i % 4}" for i in range(12)]
    with_blocks = [Statistics(ids=one.ids, values=one.values, blocks=speakers) for one in (base, pruned)]
    ours = paired_relative_degradation(*with_blocks, "wer", tolerance=0.25, num_resamples=300, seed=2)
    degradations = []
    for draw in _draws(4, 300, seed=2):
        rows = [row for block in draw for row in range(12) if speakers[row] == f"s{block}"]
        degradations.append(pruned.values[rows, 0].sum() / base.values[rows, 0].sum() - 1)
    assert ours.ci95 == pytest.approx(_interval(degradations), abs=1e-12)
    assert ours.num_drawn == 4
    assert paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=300).num_drawn == 12


def test_one_speaker_is_too_few():
    base, pruned = _random_wer_pair(3, num_utterances=6)
    alone = [Statistics(ids=one.ids, values=one.values, blocks=["only"] * 6) for one in (base, pruned)]
    with pytest.raises(DataError, match="2 of them or more, got 1, 'only'"):
        paired_relative_degradation(*alone, "wer", tolerance=0.25)
    with pytest.raises(DataError, match="2 of them"):
        score_interval(alone[0], "wer")


def test_within_is_the_sign_of_a_sum_over_utterances():
    """The exact linear form: a resample is within the tolerance where sum(pruned - 1.25 base) is 0 or less."""
    base, pruned = _random_wer_pair(2)
    ours = paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=500, seed=9)
    order = _order(base)
    excess = 4 * pruned.values[order, 0] - 5 * base.values[order, 0]  # in whole numbers
    assert ours.p_within == (excess[_draws(len(order), 500, seed=9)].sum(axis=1) <= 0).mean()
    assert 0 < ours.p_within < 1


def test_the_standard_error_is_that_of_many_such_test_sets():
    values, errors = [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        words = np.full(150, 10)
        base, pruned = (_wer_statistics(generator.binomial(words, rate), words) for rate in (0.3, 0.36))
        one = paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=400, seed=seed)
        values.append(one.value)
        errors.append(one.se)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.15)


def test_the_standard_error_is_of_finite_resamples_and_zero_without_two():
    words, edits = np.full(4, 5), np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    base, pruned = (_wer_statistics(side, words) for side in edits)
    before, after = edits[:, _draws(4, 200, seed=5)].sum(axis=2)  # [R] each
    finite = [(a - b) / b if b else 0.0 for b, a in zip(before, after, strict=True) if b or not a]
    assert 1 < len(finite) < 200
    ours = paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=200, seed=5)
    assert ours.se == pytest.approx(np.std(finite, ddof=1), abs=1e-12)
    assert paired_relative_degradation(base, pruned, "wer", tolerance=0.25, num_resamples=1).se == 0
    perfect, faulty = (_wer_statistics(np.full(4, each), words) for each in (0, 1))
    assert paired_relative_degradation(perfect, faulty, "wer", tolerance=0.25, num_resamples=50).se == 0


def test_a_model_against_itself_does_not_degrade():
    base, _ = _random_wer_pair(0)
    same = paired_relative_degradation(base, base, "wer", tolerance=0.0, num_resamples=50)
    assert (same.value, same.ci95, same.p_within, same.se) == (0.0, (0.0, 0.0), 1.0, 0.0)


@pytest.mark.parametrize("tolerance", [0.15, 0.29, 0.57])
def test_just_the_tolerance_is_within_despite_rounding(tolerance):
    base = _wer_statistics(np.full(4, 100), np.full(4, 200))
    pruned = _wer_statistics(np.full(4, round(100 * (1 + tolerance))), np.full(4, 200))
    assert paired_relative_degradation(base, pruned, "wer", tolerance=tolerance, num_resamples=20).p_within == 1
    worse = _wer_statistics(np.full(4, round(100 * (1 + tolerance)) + 1), np.full(4, 200))
    assert paired_relative_degradation(base, worse, "wer", tolerance=tolerance, num_resamples=20).p_within == 0


def test_a_perfect_base_gives_zero_or_infinity_never_nan():
    words = np.full(4, 5)
    perfect = _wer_statistics(np.zeros(4, dtype=int), words)
    one_error = _wer_statistics(np.array([1, 0, 0, 0]), words)
    equal = paired_relative_degradation(perfect, perfect, "wer", tolerance=0.25, num_resamples=200)
    assert (equal.value, equal.ci95, equal.p_within) == (0.0, (0.0, 0.0), 1.0)
    worse = paired_relative_degradation(perfect, one_error, "wer", tolerance=0.25, num_resamples=200)
    assert (worse.value, worse.ci95) == (math.inf, (0.0, math.inf))
    assert 0 < worse.p_within < 1  # resamples without the utterance that got worse: about (3/4)^4


def test_a_base_without_bleu_cannot_get_worse():
    base, pruned = _random_bleu_pair(0)
    silent_values = base.values.copy()
    silent_values[:, 2:6] = 0
    silent = Statistics(ids=base.ids, values=silent_values)
    better = paired_relative_degradation(silent, pruned, "bleu", tolerance=0.25, num_resamples=50)
    assert (better.value, better.ci95, better.p_within) == (-math.inf, (-math.inf, -math.inf), 1.0)
    gone = paired_relative_degradation(base, silent, "bleu", tolerance=0.25, num_resamples=50)
    assert (gone.value, gone.p_within) == (1.0, 0.0)


def test_unpaired_statistics_are_refused():
    base, pruned = _random_wer_pair(0, num_utterances=3)
    with pytest.raises(DataError, match="'u2'"):
        paired_relative_degradation(base, _random_wer_pair(0, num_utterances=2)[1], "wer", tolerance=0.25)
    longer = Statistics(ids=pruned.ids, values=pruned.values + np.array([[0, 0], [0, 1], [0, 0]]))
    with pytest.raises(DataError, match="unequal length for 'u1'"):
        paired_relative_degradation(base, longer, "wer", tolerance=0.25)
    twice = Statistics(ids=["u0", "u1", "u1"], values=base.values)
    with pytest.raises(DataError, match="occurs once"):
        paired_relative_degradation(twice, pruned, "wer", tolerance=0.25)
    nothing = Statistics(ids=[], values=np.zeros((0, 2), dtype=int))
    with pytest.raises(DataError, match="got none"):
        paired_relative_degradation(nothing, nothing, "wer", tolerance=0.25)


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("ter", {"tolerance": 0.25}),
        ("wer", {"tolerance": -0.1}),
        ("wer", {"tolerance": math.nan}),
        ("wer", {"tolerance": 0.25, "num_resamples": 0}),
    ],
)
def test_options_out_of_range_are_refused(metric, options):
    base, pruned = _random_wer_pair(0)
    with pytest.raises(OptionError):
        paired_relative_degradation(base, pruned, metric, **options)
