"""The bound is held against exact enumeration on small splits, and against simulated splits of known truth."""

import itertools

import numpy as np
import pytest

from slamlab.errors import OptionError
from slamlab.scoring.bootstrap import Statistics
from slamlab.scoring.stopping import STAKES, _largest_capital, early_stop

CAP = 40.0


def _statistics(edits, words):
    return Statistics(ids=tuple(str(i) for i in range(len(edits))), values=np.stack([edits, words], axis=1))


def _look(base, pruned, words, seen, **changed):
    given = {"tolerance": 0.25, "delta": 0.05, "num_looks": 8, "longest": np.full(len(base), CAP)} | changed
    return early_stop(_statistics(base, words), _statistics(pruned[:seen], words[:seen]), "wer", **given)


def _split(seed, num_utterances, factor, runaways=0.0):
    """Return edits of base and pruned and words: utterances differ in length and difficulty, edits are paired."""
    generator = np.random.default_rng(seed)
    words = generator.integers(3, 20, num_utterances)
    rate = np.clip(0.1 * generator.gamma(2, 0.5, num_utterances), 0, 0.6)
    base, pruned = generator.binomial(words, rate), generator.binomial(words, np.minimum(rate * factor, 0.95))
    return base, np.where(generator.random(num_utterances) < runaways, int(CAP), pruned), words


def _first_stop(base, pruned, words, **changed):
    """Return the first stop among looks after every utterance, and its n."""
    for seen in range(1, len(base)):
        if reason := _look(base, pruned, words, seen, **changed):
            return reason, seen
    return None, len(base)


def test_mean_capital_over_all_orders_is_at_most_one_where_the_total_is_zero():
    """What makes it a martingale, by enumeration of every order of a split: expected capital 1 at every n."""
    values, least = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.full(5, -3.0)
    for seen in range(1, 5):
        final = []
        for order in itertools.permutations(range(5)):
            scored = values[list(order)][:seen]
            before = np.concatenate([[0.0], np.cumsum(scored)[:-1]])
            mean = -before / (5 - np.arange(seen))
            gains = 1 + STAKES[:, None] * (scored - mean) / (mean + 3.0)
            final.append(gains.prod(axis=1).mean())
        assert np.mean(final) == pytest.approx(1, abs=1e-12)
        # The function's own capital is the largest on the way, so at least the last of these.
        assert _largest_capital(values[:seen], least) >= final[0] - 1e-12


def test_capital_is_that_of_gamblers_paid_one_utterance_at_a_time():
    generator = np.random.default_rng(1)
    least = -generator.uniform(0, 2, 30)
    scored = least[:20] + generator.exponential(1.0, 20)
    purses, best = np.full(len(STAKES), 1 / len(STAKES)), 0.0
    for i, value in enumerate(scored):
        mean = -scored[:i].sum() / (30 - i)
        room = mean - least[i:].min()
        assert room > 0
        purses = purses * (1 + STAKES * (value - mean) / room)
        best = max(best, purses.sum())
    assert _largest_capital(scored, least) == pytest.approx(best, rel=1e-9)
    assert 0.5 < best < np.inf


def test_just_the_tolerance_is_within_however_few_errors_tell():
    """Totals of exactly 0, where what is left has no room to fall: never hopeless, though it may look so early."""
    nothing, words = np.zeros(100, dtype=int), np.full(100, 6)
    for seen in range(1, 100):
        assert _look(nothing, nothing, words, seen) is None, "a perfect model like a perfect base"
        few = np.where(np.arange(100) < 3, 3, 0)
        assert _look(few, few, words, seen, tolerance=0.0) != "hopeless", "the base itself, at no tolerance"
    wrong = 0
    for seed in range(400):
        order = np.random.default_rng(seed).permutation(100)
        base, pruned = (np.where(order < 2, edits, 0) for edits in (4, 5))  # 10 = 1.25 * 8
        wrong += any(_look(base, pruned, words, seen, delta=0.05) == "hopeless" for seen in range(1, 100))
    assert wrong / 400 <= 0.05


@pytest.mark.parametrize("tolerance", [0.1, 0.25, 0.3, 0.57])
def test_rounding_turns_no_total_away(tolerance):
    base = np.array([100, 0, 0, 0])
    pruned = np.array([round(100 * (1 + tolerance)), 0, 0, 0])
    words = np.full(4, 200)
    assert _look(base, pruned, words, 3, tolerance=tolerance, delta=0.4) != "hopeless"
    assert _look(base, pruned + np.array([1, 0, 0, 0]), words, 3, tolerance=tolerance, delta=0.4) == "hopeless"


@pytest.mark.parametrize(("factor", "runaways"), [(1.25, 0.0), (1.0, 0.01), (1.1, 0.004)])
def test_a_stop_contradicts_the_whole_split_as_rarely_as_it_says(factor, runaways):
    """Looked at after every single utterance; truths near the tolerance, with and without rare runaway answers."""
    wrong = 0
    for seed in range(300):
        base, pruned, words = _split(seed, 120, factor, runaways)
        reason, _ = _first_stop(base, pruned, words)
        exceeded = (pruned - 1.25 * base).sum() > 0
        wrong += reason == ("safe" if exceeded else "hopeless")
    assert wrong / 300 <= 0.05


def test_what_is_far_off_is_given_up_soon():
    for seed in range(20):
        reason, seen = _first_stop(*_split(seed, 240, 5.0), delta=0.001)
        assert reason == "hopeless"
        assert seen < 100


def test_what_is_clearly_within_is_safe_early_on_a_large_split_only():
    base, pruned, words = _split(0, 3000, 0.5)
    assert _look(base, pruned, words, 1500, delta=0.001) == "safe"
    assert _look(base, pruned, words, 1500, delta=0.001, longest=None) is None
    base, pruned, words = _split(0, 120, 0.5)
    assert _look(base, pruned, words, 60, delta=0.001) is None


def test_an_answer_beyond_its_bound_takes_the_bound_away():
    base, pruned, words = _split(0, 3000, 0.5)
    pruned[3] = CAP + 1
    assert _look(base, pruned, words, 1500, delta=0.001) is None


def test_a_total_that_cannot_come_back_is_certain():
    # The base has 2 edits left to be forgiven; 100 are too many, however small delta is.
    base, pruned, words = np.array([0, 0, 1, 1]), np.array([100, 0, 0, 0]), np.full(4, 5)
    assert _look(base, pruned, words, 2, delta=1e-12) == "hopeless"


def test_nothing_and_everything_scored_stop_nothing():
    base, pruned, words = _split(0, 60, 9.0)
    assert _look(base, pruned, words, 0) is None
    assert _look(base, pruned, words, 60) is None


def test_bleu_stops_when_hopeless_and_never_as_safe():
    generator = np.random.default_rng(0)
    totals = generator.integers(8, 20, size=(200, 1)) - np.arange(4)

    def statistics(rate):
        correct = generator.binomial(totals, rate ** np.arange(1, 5))
        values = np.concatenate([totals[:, :1], totals[:, :1], correct, totals], axis=1)
        return Statistics(ids=tuple(map(str, range(200))), values=values)

    base, bad, good = statistics(0.8), statistics(0.4), statistics(0.95)
    for pruned, expected in ((bad, "hopeless"), (good, None)):
        part = Statistics(ids=pruned.ids[:50], values=pruned.values[:50])
        assert early_stop(base, part, "bleu", tolerance=0.25, delta=0.001, num_looks=4) == expected


@pytest.mark.parametrize("changed", [{"tolerance": -0.1}, {"delta": 0.0}, {"delta": 0.5}, {"num_looks": 0}])
def test_options_out_of_range_are_refused(changed):
    with pytest.raises(OptionError):
        _look(*_split(0, 20, 1.0), 5, **changed)


def test_utterances_out_of_order_are_refused():
    base, pruned, words = _split(0, 20, 1.0)
    other = Statistics(ids=("1", "0"), values=np.stack([pruned[:2], words[:2]], axis=1))
    with pytest.raises(OptionError, match="order"):
        early_stop(_statistics(base, words), other, "wer", tolerance=0.25, delta=0.01, num_looks=1)
