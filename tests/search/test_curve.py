"""What curves are made of, and that each look is taken once, whatever happens on the way."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from slamlab.errors import OptionError
from slamlab.search.curve import METHODS, Curve, CurveSampler
from slamlab.search.evidence import MAX_FAILURES, SearchSpace


@pytest.fixture(autouse=True)
def quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def _space(num_layers=12, seed=0):
    distance = np.random.default_rng(seed).random((num_layers + 1, num_layers + 1))
    return SearchSpace(num_layers=num_layers, distance=distance, tolerance=0.25, max_depth=num_layers - 1)


def _study(sampler, storage=None):
    return optuna.create_study(sampler=sampler, storage=storage, study_name="cell", load_if_exists=True)


def _take(study, state=TrialState.COMPLETE):
    trial = study.ask(fixed_distributions=study.sampler.distributions)
    _end(study, trial, state)
    return trial.params["rung"], trial.params["start"], trial.params["depth"]


def _end(study, trial, state=TrialState.COMPLETE):
    if state == TrialState.COMPLETE:
        trial.set_user_attr("relative_degradation", 0.1)
        study.tell(trial, 0.5)
    else:
        study.tell(trial, state=state)


def _all(study, num=10_000):
    looks = []
    while len(looks) < num and not study.sampler.should_stop(study):
        looks.append(_take(study))
    return looks


# Depths


@pytest.mark.parametrize(("num_layers", "deepest"), [(2, 1), (4, 3), (12, 9), (16, 12), (28, 21), (30, 22)])
def test_every_depth_up_to_three_quarters_is_the_default(num_layers, deepest):
    assert Curve().depths_of(num_layers) == list(range(1, deepest + 1))


@pytest.mark.parametrize(
    ("given", "num_layers", "depths"),
    [
        (("8", "1", "4", "1"), 12, [1, 4, 8]),
        (("0.25", "0.5"), 28, [7, 14]),
        (("0.01", ".5", "0.26", "3"), 12, [1, 3, 6]),
        (("11",), 12, [11]),
    ],
)
def test_depths_are_counts_or_fractions(given, num_layers, depths):
    assert Curve(depths=given).depths_of(num_layers) == depths


@pytest.mark.parametrize("depth", ["0", "-1", "1.0", "0.0", "1.5", "nan", "x", "1e1", "2/3", "-0.5", ""])
def test_what_is_no_depth_is_refused(depth):
    with pytest.raises(OptionError, match="a depth is a count of layers from 1 on, or a fraction") as caught:
        Curve(depths=("1", depth))
    assert f"got {depth!r}: pass for example --depths 1,2,4,8" in str(caught.value)


@pytest.mark.parametrize("depth", ["12", "30", "0.99"])
def test_a_depth_that_leaves_no_layer_is_refused(depth):
    with pytest.raises(OptionError, match=f"between 1 and 11 of 12 layers, got {depth}: "):
        Curve(depths=(depth,)).depths_of(12)


def test_methods_are_known_and_one_at_least():
    with pytest.raises(OptionError, match="a method is one of paper, deepest, random, got best: "):
        Curve(methods=("paper", "best"))
    with pytest.raises(OptionError, match="got none: name one"):
        Curve(methods=())


# Blocks


def test_each_method_names_its_block_of_every_depth():
    space = _space()
    blocks = Curve().blocks(space, seed=3)
    assert list(blocks) == list(METHODS)
    for depth in range(1, 10):
        distances = [space.distance[start, start + depth] for start in range(12 - depth + 1)]
        assert blocks["paper"][depth - 1] == (int(np.argmin(distances)), depth)
        (start, same) = blocks["deepest"][depth - 1]
        assert (start + same, same) == (11, depth), "all but the last layer, from the end"
        assert 0 <= blocks["random"][depth - 1][0] <= 12 - depth


def test_random_starts_depend_on_seed_and_depth_alone():
    (usual,) = Curve(methods=("random",)).blocks(_space(28), seed=0).values()
    assert Curve().blocks(_space(28, seed=1), seed=0)["random"] == usual
    (few,) = Curve(methods=("random",), depths=("3", "9")).blocks(_space(28), seed=0).values()
    assert few == [usual[2], usual[8]]
    assert Curve().blocks(_space(28), seed=1)["random"] != usual
    drawn = {Curve(depths=("10",)).blocks(_space(12), seed=seed)["random"][0][0] for seed in range(60)}
    assert drawn == {0, 1, 2}, "every start can be drawn"


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_counted_before_there_is_a_map(seed):
    curve, space = Curve(), _space(6, seed)
    shared = {block for blocks in curve.blocks(space, seed).values() for block in blocks}
    assert len(shared) <= curve.max_blocks(6, seed) <= 3 * 4
    without = Curve(methods=("deepest", "random"))
    exact = {block for blocks in without.blocks(space, seed).values() for block in blocks}
    assert without.max_blocks(6, seed) == len(exact)


# The sampler


def test_every_look_is_taken_once_first_as_cut_and_shallow_to_deep():
    curve, space = Curve(depths=("1", "3", "6", "9")), _space()
    sampler = CurveSampler(space, curve)
    blocks = {block for found in curve.blocks(space, 0).values() for block in found}
    looks = _all(_study(sampler))
    assert len(looks) == len(set(looks)) == 2 * len(blocks)
    assert {look[1:] for look in looks if look[0] == "full"} == blocks
    assert [look[0] for look in looks] == ["unhealed"] * len(blocks) + ["full"] * len(blocks)
    for rung in ("unhealed", "full"):
        depths = [depth for own, _, depth in looks if own == rung]
        assert depths == sorted(depths)


def test_blocks_that_methods_share_are_taken_once():
    distance = np.ones((7, 7))
    distance[:, 5] = 0.0  # the least distance ends where the deepest layers do
    space = SearchSpace(num_layers=6, distance=distance, tolerance=0.25, max_depth=5)
    curve = Curve(methods=("paper", "deepest"))
    blocks = curve.blocks(space, 0)
    assert blocks["paper"] == blocks["deepest"]
    assert len(_all(_study(CurveSampler(space, curve)))) == 2 * len(blocks["paper"])


def test_without_healing_nothing_is_healed():
    looks = _all(_study(CurveSampler(_space(), Curve(healed=False))))
    assert {look[0] for look in looks} == {"unhealed"}


def test_nothing_is_recommended():
    study = _study(CurveSampler(_space(), Curve(depths=("1",))))
    _all(study)
    assert study.sampler.recommend(study).verdict == "none"
    assert study.sampler.recommend(study).depth == 0
    ((start, depth), *_) = study.sampler.by_method["paper"]
    assert study.sampler.p_feasible(study, [(start, depth)]) == [1.0]
    assert study.sampler.has_shown(study, start, depth)


def test_a_curve_stopped_after_every_look_goes_on_as_if_it_had_not_been(tmp_path):
    def sampler():
        return CurveSampler(_space(6), Curve(depths=("1", "3")))

    expected = _all(_study(sampler()))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert [_take(_study(sampler(), url)) for _ in expected] == expected
    resumed = _study(sampler(), url)
    assert resumed.sampler.should_stop(resumed)


def test_a_curve_that_grows_takes_only_what_is_new():
    study = _study(CurveSampler(_space(), Curve(depths=("2",), healed=False)))
    first = _all(study)
    study.sampler = CurveSampler(_space(), Curve(depths=("2", "4")))
    looks = _all(study)
    assert not set(first) & set(looks)
    assert {rung for rung, _, depth in looks if depth == 2} == {"full"}


def test_what_fails_is_tried_again_then_left():
    study = _study(CurveSampler(_space(), Curve(depths=("1", "4"), methods=("deepest",))))
    looks = []
    while not study.sampler.should_stop(study):
        looks.append(_take(study, TrialState.FAIL))
    assert {looks.count(look) for look in looks} == {MAX_FAILURES}
    assert len(set(looks)) == 4


def test_looks_at_the_same_time_are_at_different_blocks_and_no_more_than_allowed():
    study = _study(CurveSampler(_space(), Curve(), max_running=5))
    running, taken = [], []
    while not study.sampler.should_stop(study):
        while study.sampler.ready(study):
            running.append(study.ask(fixed_distributions=study.sampler.distributions))
        assert 1 <= len(running) <= 5
        taken.append(tuple(running[0].params.values()))
        _end(study, running.pop(0))
    assert len(taken) == len(set(taken))
    assert sorted(taken) == sorted(tuple(trial.params.values()) for trial in study.trials)
