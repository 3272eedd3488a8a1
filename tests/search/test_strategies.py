"""The usual strategies, against tables whose truth is known, in studies as they are in use."""

import itertools
import math
from statistics import NormalDist, fmean

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from slamlab.errors import OptionError
from slamlab.search.evidence import MAX_FAILURES, Proposal, Recommendation, SearchSpace
from slamlab.search.sampler import Names
from slamlab.search.strategies import (
    SAMPLERS,
    BisectSampler,
    GpSampler,
    GridSampler,
    PaperSampler,
    RandomSampler,
    SamplerOptions,
    TpeSampler,
    build_sampler,
    expected_num_heals,
)

TOLERANCE = 0.25
EXHAUSTIVE = ("grid", "paper", "bisect")
BUDGETED = ("random", "tpe", "gp")
USUAL = (*EXHAUSTIVE, *BUDGETED)


@pytest.fixture(autouse=True)
def quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def _space(num_layers=12, max_depth=None, seed=0):
    distance = np.random.default_rng(seed).random((num_layers + 1, num_layers + 1))
    distance[np.tril_indices(num_layers + 1)] = np.nan  # never to be read
    return SearchSpace(
        num_layers=num_layers, distance=distance, tolerance=TOLERANCE, max_depth=max_depth or num_layers - 1
    )


def _study(sampler, storage=None, name="cell"):
    return optuna.create_study(
        direction="maximize", sampler=sampler, storage=storage, study_name=name, load_if_exists=True
    )


def _up_to(edge):
    """Return what a heal gives where blocks of up to `edge` layers do no harm."""
    return lambda start, depth, repeat: 0.1 if depth <= edge else 0.5


def _ask(study):
    return study.ask(fixed_distributions=study.sampler.distributions)


def _tell(study, trial, degradation, se=0.0, p_within=None):
    """End a trial; without a degradation it failed."""
    if degradation is None:
        study.tell(trial, state=TrialState.FAIL)
        return
    trial.set_user_attr("relative_degradation", degradation if math.isfinite(degradation) else None)
    trial.set_user_attr("se", se)
    if p_within is not None:
        trial.set_user_attr("p_within", p_within)
    trial.set_constraint("degradation", degradation - TOLERANCE)
    study.tell(trial, trial.params["depth"])


def _search(study, heal, num_trials=10_000):
    """Run a search, at most so many trials of it; return the blocks (start, depth) that all its trials looked at."""
    for _ in range(num_trials):
        if study.sampler.should_stop(study):
            break
        assert study.sampler.ready(study)
        trial = _ask(study)
        block = trial.params["start"], trial.params["depth"]
        repeat = sum((t.params["start"], t.params["depth"]) == block for t in study.get_trials(deepcopy=False)) - 1
        _tell(study, trial, heal(*block, repeat))
    return _blocks(study)


def _blocks(study):
    return [(trial.params["start"], trial.params["depth"]) for trial in study.get_trials(deepcopy=False)]


def _with(space, sampler, *looks):
    """Return a study that holds looks: start, depth, and what :func:`_tell` takes."""
    study = _study(sampler)
    for start, depth, *told in looks:
        study.enqueue_trial({"start": start, "depth": depth, "rung": "full"})
        _tell(study, _ask(study), *told)
    return study


# What each strategy looks at, and finds


@pytest.mark.parametrize("num_layers", [2, 3, 5, 7, 12, 16])
def test_strategies_that_go_to_the_end_find_every_edge(num_layers):
    space = _space(num_layers)
    for name, edge in itertools.product(EXHAUSTIVE, range(num_layers)):
        study = _study(build_sampler(name, space, SamplerOptions()))
        blocks = _search(study, _up_to(edge))
        best = study.sampler.recommend(study)
        assert (best.depth, best.verdict) == (edge, "feasible" if edge else "none")
        if edge:
            assert best.p_feasible == 1
        if edge and name != "grid":
            assert best.start == space.starts(edge)[0]
        assert len(set(blocks)) == len(blocks) <= expected_num_heals(name, num_layers, num_layers - 1)[1]


def test_grid_looks_at_every_block_shallow_to_deep_and_finds_the_only_good_start():
    space = _space(6, max_depth=3)
    study = _study(GridSampler(space))
    blocks = _search(study, lambda start, depth, _: 0.1 if (start, depth) in [(4, 1), (2, 3)] else 0.5)
    assert blocks == [(start, depth) for depth in (1, 2, 3) for start in range(7 - depth)]
    assert study.sampler.recommend(study) == Recommendation(start=2, depth=3, verdict="feasible", p_feasible=1.0)


def test_paper_looks_at_every_depth_where_the_angle_is_least():
    space = _space(8, max_depth=5)
    assert _search(_study(PaperSampler(space)), _up_to(2)) == [(space.starts(n)[0], n) for n in range(1, 6)]


def test_bisection_begins_at_a_quarter_then_at_half():
    space = _space(28)
    blocks = _search(_study(BisectSampler(space)), _up_to(11))
    assert blocks[:2] == [(space.starts(7)[0], 7), (space.starts(14)[0], 14)]


@pytest.mark.parametrize("num_layers", [*range(2, 17), 24, 28, 32, 80])
def test_bisection_takes_as_many_heals_as_planned(num_layers):
    for max_depth in {1, num_layers // 2, int(0.7 * num_layers), num_layers - 1} - {0}:
        space = _space(num_layers, max_depth)
        lengths = [len(_search(_study(BisectSampler(space)), _up_to(edge))) for edge in range(max_depth + 1)]
        assert expected_num_heals("bisect", num_layers, max_depth) == (pytest.approx(fmean(lengths)), max(lengths))
        assert max(lengths) <= math.ceil(math.log2(num_layers)) + 2


def test_bisection_ends_whatever_the_outcomes():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        num_layers = int(rng.integers(2, 40))
        study = _study(BisectSampler(_space(num_layers)))
        blocks = _search(study, lambda *_, rng=rng: rng.choice([0.1, 0.5, None]))
        assert len(set(blocks)) <= expected_num_heals("bisect", num_layers, num_layers - 1)[1]


def test_bisection_goes_on_above_a_feasible_block_that_contradicts_a_shallower_one():
    space = _space(28)
    start = int(space.starts(4)[0])
    study = _with(space, BisectSampler(space), (start, 4, 0.3), (2, 8, 0.2))
    assert study.sampler.suggest(study).depth > 8
    assert study.sampler.recommend(study).depth == 8


def test_bisection_is_not_misled_by_a_bad_start_that_someone_else_looked_at():
    space = _space(16)
    bad = int(space.starts(4)[-1])
    study = _with(space, BisectSampler(space), (bad, 4, 0.9))
    assert study.sampler.suggest(study) == Proposal(start=int(space.starts(4)[0]), depth=4)


@pytest.mark.parametrize("name", BUDGETED)
def test_budgets_are_spent_and_no_more(name):
    study = _study(build_sampler(name, _space(), SamplerOptions(max_heals=14)))
    blocks = _search(study, _up_to(5))
    assert len(blocks) == 14
    assert study.sampler.recommend(study).depth == max((n for _, n in blocks if n <= 5), default=0)


def test_random_ends_where_every_block_is_known():
    blocks = _search(_study(RandomSampler(_space(4), max_heals=100)), _up_to(1))
    assert sorted(blocks) == sorted(_space(4).blocks)


def test_random_seeds_differ():
    runs = [tuple(_search(_study(RandomSampler(_space(), seed=seed)), _up_to(5))) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("kind", [TpeSampler, GpSampler])
def test_learners_learn(kind):
    """After the draws with which it begins, a learner keeps to depths that do no harm, and goes deep."""
    study = _study(kind(_space(24), max_heals=20))
    depths = [n for _, n in _search(study, lambda start, depth, _: 0.02 * depth)]
    assert fmean(depths[10:]) == pytest.approx(12, abs=4)
    assert study.sampler.recommend(study).depth >= 10


def test_learners_take_up_starts_beyond_the_ranks_they_choose_among():
    space = _space(24)
    study = _with(space, TpeSampler(space), *((int(space.starts(n)[-1]), n, 0.1) for n in range(1, 12)))
    assert study.sampler.suggest(study) is not None


# A strategy is a function of the trials


@pytest.mark.parametrize("name", USUAL)
def test_the_same_trials_give_the_same_suggestion_to_any_sampler(name):
    space, heal = _space(9), _up_to(3)
    study = _study(build_sampler(name, space, SamplerOptions(max_heals=12)))
    blocks = _search(study, heal)
    again = _study(None)
    for block in [*blocks, None]:
        fresh = build_sampler(name, space, SamplerOptions(max_heals=12))
        proposal = fresh.suggest(again)
        assert (proposal and (proposal.start, proposal.depth)) == block
        assert fresh.suggest(again) == proposal
        assert fresh.should_stop(again) == (block is None)
        if block:
            params = fresh.params_of(proposal)
            again.add_trial(
                create_trial(
                    params=params,
                    distributions=fresh.distributions,
                    value=block[1],
                    user_attrs={"relative_degradation": heal(*block, 0)},
                )
            )


@pytest.mark.parametrize("name", USUAL)
def test_a_search_stopped_after_every_trial_goes_on_as_if_it_had_not_been(name, tmp_path):
    def sampler():
        return build_sampler(name, _space(5, max_depth=3), SamplerOptions(max_heals=11))

    undisturbed = _study(sampler())
    expected = _search(undisturbed, _up_to(2))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    for done in range(len(expected)):
        assert _search(_study(sampler(), url), _up_to(2), num_trials=1) == expected[: done + 1]
    resumed = _study(sampler(), url)
    assert resumed.sampler.should_stop(resumed)
    assert resumed.sampler.recommend(resumed) == undisturbed.sampler.recommend(undisturbed)


@pytest.mark.parametrize("name", USUAL)
def test_searches_run_under_optimize(name):
    study = _study(build_sampler(name, _space(8), SamplerOptions(max_heals=11)))
    sampler = study.sampler

    def objective(trial):
        depth = trial.suggest_int("depth", 1, 7)
        trial.suggest_int("start", 0, 7)
        assert trial.suggest_categorical("rung", ["unhealed", "short", "full"]) == "full"
        degradation = _up_to(3)(0, depth, 0)
        trial.set_user_attr("relative_degradation", degradation)
        trial.set_constraint("degradation", degradation - TOLERANCE)
        return depth

    study.optimize(objective, n_trials=200, callbacks=[lambda study, _: sampler.should_stop(study) and study.stop()])
    assert len(study.trials) < 200
    assert sampler.should_stop(study)
    assert sampler.recommend(study).depth == max((n for _, n in _blocks(study) if n <= 3), default=0)


def test_names_of_the_study_are_kept_to():
    names = Names(depth="n", start="l", rung="fid", rungs={"full": 3}, degradation="delta")
    study = _study(PaperSampler(_space(5), names=names))
    trial = _ask(study)
    assert (trial.params["n"], trial.params["fid"]) == (1, 3)
    trial.set_user_attr("delta", 0.1)
    study.tell(trial, 1)
    assert study.sampler.recommend(study).depth == 1


def test_cheaper_looks_count_for_nothing():
    space = _space(6)
    study = _study(BisectSampler(space))
    first = study.sampler.suggest(study)
    study.enqueue_trial({"depth": first.depth, "start": first.start, "rung": "short"})
    _tell(study, _ask(study), 0.1)
    assert study.sampler.suggest(study) == first
    assert study.sampler.recommend(study).verdict == "none"


# Failures


@pytest.mark.parametrize("name", USUAL)
def test_a_failed_heal_is_tried_again_then_barred(name):
    study = _study(build_sampler(name, _space(6, max_depth=3), SamplerOptions(max_heals=8)))
    blocks = _search(study, lambda *_: None)
    counts = {block: blocks.count(block) for block in blocks}
    assert set(counts.values()) == {MAX_FAILURES}
    assert study.sampler.recommend(study) == Recommendation(start=0, depth=0, verdict="none")
    if name in BUDGETED:
        assert len(counts) == 8  # each counts once against the budget


@pytest.mark.parametrize("name", USUAL)
def test_a_heal_that_works_the_second_time_counts(name):
    study = _study(build_sampler(name, _space(6, max_depth=3), SamplerOptions(max_heals=8)))
    blocks = _search(study, lambda start, depth, repeat: 0.1 if repeat else None)
    assert study.sampler.recommend(study).depth == max(n for _, n in blocks)
    assert blocks[0] == blocks[1]


# Many at a time


@pytest.mark.parametrize("name", [name for name in USUAL if name != "bisect"])
def test_looks_at_the_same_time_are_at_different_blocks(name):
    study = _study(build_sampler(name, _space(8), SamplerOptions(max_running=5, max_heals=13)))
    running, heals = [], 0
    while not study.sampler.should_stop(study):
        while study.sampler.ready(study):
            running.append(_ask(study))
        assert 1 <= len(running) <= 5
        assert len({(t.params["start"], t.params["depth"]) for t in running}) == len(running)
        _tell(study, running.pop(0), 0.1)
        heals += 1
    assert heals == expected_num_heals(name, 8, 7, 13)[0]


def test_bisection_looks_at_one_block_at_a_time():
    study = _study(build_sampler("bisect", _space(), SamplerOptions(max_running=8)))
    _ask(study)
    assert not study.sampler.ready(study)
    assert not study.sampler.should_stop(study)


def test_whoever_asks_although_nothing_is_worth_a_look_gets_the_recommended_block():
    study = _study(build_sampler("bisect", _space(), SamplerOptions()))
    trial = _ask(study)
    assert _ask(study).params["depth"] == 1, "nothing is recommended yet"
    _tell(study, trial, 0.0)
    while study.sampler.ready(study):
        _tell(study, _ask(study), 0.9)
    best = study.sampler.recommend(study)
    again = _ask(study)
    assert (again.params["start"], again.params["depth"]) == (best.start, best.depth)


# What is recommended


def test_the_deepest_feasible_block_then_the_likeliest_then_the_earliest():
    space = _space()
    sampler = GridSampler(space)
    looks = [(6, 5, 0.1, 0.05), (2, 5, 0.2, 0.05), (4, 5, 0.1, 0.05), (0, 7, 0.5, 0.05), (1, 3, 0.0, 0.0)]
    for order in (looks, looks[::-1]):
        study = _with(space, sampler, *order)
        best = sampler.recommend(study)
        assert (best.start, best.depth, best.verdict) == (4, 5, "feasible")
        assert best.p_feasible == pytest.approx(NormalDist(0.1, 0.05).cdf(0.25))


def test_an_undecided_block_is_recommended_only_without_a_feasible_one():
    space = _space()
    sampler = GridSampler(space)
    doubtful = [(0, 9, None), (5, 2, 0.2, 0.1), (1, 6, 0.26, 0.1), (3, 4, 0.24, 0.1)]
    best = sampler.recommend(_with(space, sampler, *doubtful))
    assert (best.start, best.depth, best.verdict) == (3, 4, "undecided")
    assert 0.5 < best.p_feasible < 0.95
    best = sampler.recommend(_with(space, sampler, *doubtful, (7, 1, 0.0, 0.01)))
    assert (best.start, best.depth, best.verdict) == (7, 1, "feasible")
    none = Recommendation(start=0, depth=0, verdict="none")
    assert sampler.recommend(_with(space, sampler, *doubtful[:1], doubtful[2])) == none
    assert sampler.recommend(_study(sampler)) == none


def test_half_is_the_rule_of_the_point_estimate():
    space = _space()
    sampler = GridSampler(space, alpha=0.5)
    for degradation, verdict in [(0.25, "feasible"), (0.2499, "feasible"), (0.2501, "none"), (math.inf, "none")]:
        for se in (0.0, 0.3):
            assert sampler.recommend(_with(space, sampler, (0, 3, degradation, se))).verdict == verdict


def test_the_share_of_resamples_is_taken_where_it_was_counted():
    space = _space()
    sampler = GridSampler(space)
    best = sampler.recommend(_with(space, sampler, (0, 3, 0.24, 0.1, 0.97)))
    assert (best.verdict, best.p_feasible) == ("feasible", 0.97)


def test_repeats_average_the_heals_and_not_the_test_set():
    space = _space()
    sampler = GridSampler(space)
    alike = sampler.recommend(_with(space, sampler, *[(0, 3, 0.2, 0.05, 0.9)] * 9))
    assert alike.p_feasible == pytest.approx(NormalDist(0.2, 0.05).cdf(0.25))
    apart = sampler.recommend(_with(space, sampler, (0, 3, 0.15, 0.05), (0, 3, 0.25, 0.05)))
    assert apart.p_feasible == pytest.approx(NormalDist(0.2, math.hypot(0.05, 0.05)).cdf(0.25))
    assert sampler.recommend(_with(space, sampler, (0, 3, 0.1, 0.05), (0, 3, math.inf, 0.05))).verdict == "none"


def test_bisection_keeps_to_the_rule_by_which_it_recommends():
    space = _space(16)
    start = int(space.starts(4)[0])
    for alpha, deeper in [(0.5, True), (0.05, False)]:
        sampler = BisectSampler(space, alpha=alpha)
        study = _with(space, sampler, (start, 4, 0.24, 0.05))
        assert (sampler.suggest(study).depth > 4) == deeper


# Options


def test_every_strategy_has_a_name_and_a_number_of_heals():
    space = _space()
    for name in SAMPLERS:
        assert build_sampler(name, space, SamplerOptions(alpha=0.1)).alpha == 0.1
        expected, at_most = expected_num_heals(name, 12, 8)
        assert 0 < expected <= at_most
    assert expected_num_heals("paper", 28, 19) == (19, 19)
    assert expected_num_heals("grid", 12, 8) == (len(_space(12, 8).blocks),) * 2
    assert expected_num_heals("gp", 28, 19, 40) == (40, 40)


@pytest.mark.parametrize(
    ("refused", "received"),
    [
        (lambda: build_sampler("best", _space(), SamplerOptions()), "best"),
        (lambda: expected_num_heals("best", 12, 8), "best"),
        (lambda: build_sampler("tpe", _space(), SamplerOptions(max_heals=0)), "0"),
        (lambda: build_sampler("grid", _space(), SamplerOptions(max_running=0)), "0"),
        (lambda: build_sampler("paper", _space(), SamplerOptions(alpha=0.6)), "0.6"),
    ],
)
def test_options_out_of_range_are_refused(refused, received):
    with pytest.raises(OptionError, match=rf"got {received}: "):
        refused()
