"""The joint search, in small worlds whose truth is known, and its conditioning against plain linear algebra."""

import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import multivariate_normal

from slamlab.errors import DataError, OptionError
from slamlab.search import joint
from slamlab.search.evidence import MAX_FAILURES, Look, SearchSpace
from slamlab.search.frontier import FrontierSampler, Pool
from slamlab.search.joint import JointPosterior, JointSampler
from slamlab.search.posterior import Posterior
from slamlab.search.responses import degradation_of, response

TOLERANCE = 0.25
NUM_LAYERS = 14
BEARS = (4.3, 5.4, 4.9)
"""Layers, in the worth of a usual one, that cells can lose."""


@pytest.fixture(autouse=True)
def quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


class World:
    """Cells of one decoder, in which blocks cost what their layers are worth; without noise.

    Args:
        bears: What each cell can bear.
        cost: By how much a joint heal is worse than one of the cell's own, in responses.
    """

    def __init__(self, bears=BEARS, cost=0.0):
        self.bears, self.cost = bears, cost
        layer = np.arange(NUM_LAYERS)
        worth = 1 + 4 * np.exp(-layer) + 2 * np.exp(layer - NUM_LAYERS + 1) + 0.3 * np.sin(layer)
        ends = np.r_[0.0, worth.cumsum()]
        self.worth = np.maximum(ends - ends[:, None], 0.0)  # by first layer removed and first one kept
        self.pool, self.studies = Pool(), []
        for i in range(len(bears)):
            space = SearchSpace(
                num_layers=NUM_LAYERS,
                distance=1 - np.exp(-self.worth / 20),
                tolerance=TOLERANCE,
                max_depth=9,
                factors={"language": f"{i}"},
            )
            sampler = FrontierSampler(space, pool=self.pool)
            self.studies.append(optuna.create_study(direction="maximize", sampler=sampler, study_name=f"cell {i}"))
            self.pool.add(space, self.studies[-1])

    def delta(self, cell, start, depth):
        return TOLERANCE * (self.worth[start, start + depth] / self.bears[cell]) ** 2.5

    def healed(self, start, depth):
        """Return what a joint heal shows of each member."""
        own = [response(self.delta(cell, start, depth), TOLERANCE) + self.cost for cell in range(len(self.bears))]
        return [math.exp(g) * (TOLERANCE + 0.05) - 0.05 for g in own]

    @property
    def edge(self):
        """Depth of the deepest block that all can lose together."""
        blocks = [(start, depth) for depth in range(1, 10) for start in range(NUM_LAYERS - depth + 1)]
        return max((depth for start, depth in blocks if max(self.healed(start, depth)) <= TOLERANCE), default=0)

    def search(self):
        """Search each cell by itself."""
        for cell, study in enumerate(self.studies):
            while not study.sampler.should_stop(study):
                trial = study.ask(fixed_distributions=study.sampler.distributions)
                start, depth = study.sampler.block_of(trial.params)
                trial.set_user_attr("relative_degradation", self.delta(cell, start, depth))
                trial.set_user_attr("se", 0.005)
                study.tell(trial, depth)
        return self

    def join(self, **options):
        """Return a joint study, its sampler within."""
        return optuna.create_study(
            direction="maximize", sampler=JointSampler(self.pool, **options), study_name="all together"
        )


@pytest.fixture
def world():
    return World().search()


def _ask(study):
    return study.ask(fixed_distributions=study.sampler.distributions)


def _tell(study, trial, degradations, se=0.005):
    if degradations is None:
        study.tell(trial, state=TrialState.FAIL)
        return
    trial.set_user_attr("relative_degradation", degradations)
    trial.set_user_attr("se", [se] * len(degradations))
    study.tell(trial, trial.params["depth"])


def _run(study, world, each=lambda study: None):
    """Run a joint search; return the blocks that were healed."""
    sampler, blocks = study.sampler, []
    while not sampler.should_stop(study):
        each(study)
        trial = _ask(study)
        blocks.append(sampler.block_of(trial.params))
        _tell(study, trial, world.healed(*blocks[-1]))
    return blocks


def _heal(study, block, degradations, se=0.005):
    study.enqueue_trial({"start": block[0], "depth": block[1], "rung": "full"})
    _tell(study, _ask(study), degradations, se)


# What is found


@pytest.mark.parametrize("bears", [BEARS, (6.1, 4.0, 4.2, 4.1), (3.0, 5.0), (5.3,)])
def test_the_joint_edge_is_found_and_its_binding_cell_named(bears):
    world = World(bears).search()
    study = world.join()
    blocks = _run(study, world)
    best = study.sampler.recommend(study)
    assert (best.depth, best.verdict) == (world.edge, "feasible")
    assert (best.start, best.depth) in blocks
    assert max(world.healed(best.start, best.depth)) <= TOLERANCE
    member, p = study.sampler.binding(study)
    assert member == np.argmin(bears)
    assert p < 0.5 < 0.94 <= best.p_feasible, "a layer deeper it would not stay within"


def test_the_cells_own_looks_lead_the_first_heal_to_the_edge(world):
    study = world.join()
    predicted = study.sampler.prediction()
    assert abs(predicted.depth - world.edge) <= 1
    assert predicted.verdict == "undecided"
    first, *others = _run(study, world)
    assert abs(first[1] - world.edge) <= 1
    assert len(others) <= 2


def test_one_cell_that_bears_little_limits_all():
    world = World((2.4, 6.0, 6.0, 6.0)).search()
    assert world.edge < World((6.0, 6.0, 6.0)).edge - 1
    study = world.join()
    assert study.sampler.binding(study)[0] == 0  # before any joint heal, by the cells' own looks
    _run(study, world)
    assert study.sampler.recommend(study).depth == world.edge
    assert study.sampler.binding(study)[0] == 0


def test_what_healing_together_costs_is_learned():
    world = World(cost=0.45).search()
    assert world.edge < World().edge
    study = world.join()
    assert study.sampler.prediction().depth > world.edge
    blocks = _run(study, world)
    assert study.sampler.recommend(study).depth == world.edge
    assert len(blocks) <= 4


def test_members_may_be_some_cells_of_the_pool():
    world = World((2.4, 6.0, 5.8)).search()
    study = world.join(members=["cell 2", "cell 1"])
    alone = World((5.8, 6.0))
    _run(study, alone)
    assert study.sampler.recommend(study).depth == alone.edge > world.edge
    assert study.sampler.binding(study)[0] == 0


# What certifies


def test_without_a_joint_heal_nothing_is_certified(world):
    study = world.join()
    sampler = study.sampler
    shallow = (4, 1)
    assert sampler.p_feasible(study, [shallow])[0] > 0.95
    assert sampler.recommend(study).verdict == "none"
    assert not sampler.has_shown(study, *shallow)
    _heal(study, shallow, world.healed(*shallow))
    assert sampler.has_shown(study, *shallow)
    assert sampler.recommend(study).depth == 1


def test_every_member_has_to_show_it(world):
    study = world.join()
    block = (4, 2)
    _heal(study, block, [0.05, 0.26, 0.05], se=0.1)
    assert not study.sampler.has_shown(study, *block)
    assert study.sampler.recommend(study).verdict == "none"
    _heal(study, block, [0.26, 0.05, 0.05], se=0.1)  # each has, if not at once
    assert study.sampler.has_shown(study, *block)
    assert study.sampler.recommend(study).depth == 2


def test_an_unbounded_degradation_is_never_within(world):
    study = world.join()
    _heal(study, (4, 2), [0.05, None, 0.05])
    assert study.sampler.recommend(study).verdict == "none"
    assert study.sampler.looks(study)[0].degradation is None  # the worst member speaks for a heal


# What is asked for


def test_a_suggestion_is_a_function_of_the_trials(world):
    study = world.join()

    def again(study):
        fresh = JointSampler(world.pool)
        assert fresh.suggest(study) == study.sampler.suggest(study) == study.sampler.suggest(study)
        assert fresh.recommend(study) == study.sampler.recommend(study)
        assert fresh.binding(study) == study.sampler.binding(study)

    assert _run(study, world, again)
    again(study)


def test_a_block_that_fails_twice_is_barred(world):
    study = world.join(max_heals=8)
    blocks = []
    for _ in range(2 * MAX_FAILURES):
        trial = _ask(study)
        blocks.append(study.sampler.block_of(trial.params))
        _tell(study, trial, None)
    assert blocks[:MAX_FAILURES] == [blocks[0]] * MAX_FAILURES
    assert blocks[0] not in blocks[MAX_FAILURES:]


def test_a_member_without_a_number_is_a_failed_heal(world):
    study = world.join()
    _heal(study, (4, 2), [0.05, math.nan, 0.05])
    assert [look.state for look in study.sampler.looks(study)] == ["failed"]
    assert study.sampler.recommend(study).verdict == "none"


def test_there_are_at_most_max_heals(world):
    study = world.join(max_heals=2)
    _tell(study, _ask(study), None)
    _tell(study, _ask(study), None)
    assert study.sampler.should_stop(study)


def test_the_last_heal_has_to_gain_something():
    world = World().search()
    deep = (3, world.edge + 1)
    study = world.join(max_heals=2, price=0.05)
    _heal(study, deep, [0.27, 0.24, 0.24], se=0.1)
    _tell(study, trial := _ask(study), world.healed(*study.sampler.block_of(trial.params)))
    assert study.sampler.recommend(study).verdict == "feasible"


def test_one_heal_runs_at_a_time_unless_more_may(world):
    study = world.join()
    trial = _ask(study)
    assert study.sampler.suggest(study) is None
    assert not study.sampler.should_stop(study)
    both = JointSampler(world.pool, max_running=2).suggest(study)
    assert both is None or both.depth > trial.params["depth"]


# Conditioning


def _small():
    """Return the posterior of two cells with looks of their own, and two joint heals, one of a block so known."""
    spaces = list(World(BEARS[:2]).pool.cells.values())
    looks = [
        [Look(start=4, depth=3, degradation=0.12, se=0.02), Look(start=4, depth=5, degradation=0.3, se=0.03)],
        [Look(start=5, depth=4, degradation=0.15, se=0.02)],
    ]
    heals = [
        (Look(start=4, depth=3, degradation=0.2, se=0.02), Look(start=4, depth=3, degradation=0.11, se=0.03)),
        (Look(start=6, depth=4, degradation=0.31, se=0.02), Look(start=6, depth=4, degradation=0.24, se=0.03)),
    ]
    return Posterior(spaces, looks), heals


def test_a_look_to_come_is_as_the_outlook_says():
    posterior, _ = _small()
    for block in [(4, 3), (6, 4)]:
        expected, variance, together, shown = posterior.outlook(0, [block])
        look = Look(start=block[0], depth=block[1], state="running")
        mean, covariance = posterior.joint([(0, look)], [(0, look)])
        assert mean[0] == pytest.approx(expected[0])
        assert covariance == pytest.approx(
            np.array([[variance[0], together[0]], [together[0], shown[0]]]), rel=1e-6, abs=1e-9
        )


def test_heals_are_conditioned_on_as_linear_algebra_would():
    posterior, heals = _small()
    block = (5, 4)
    rows = [(cell, Look(start=5, depth=4)) for cell in (0, 1)]
    mean, covariance = posterior.joint(rows, [(cell, heal[cell]) for heal in heals for cell in (0, 1)])
    member, heal = np.array([0, 1] * 3), np.array([-1, -1, 0, 0, 1, 1])
    for i in range(6):
        for j in range(6):
            covariance[i, j] += joint.BIAS_SD**2
            covariance[i, j] += joint.OWN_BIAS_SD**2 * (member[i] == member[j])
            covariance[i, j] += joint.LUCK_SD**2 * (heal[i] == heal[j] >= 0)
    shown = []
    for cell, look in [(cell, heal[cell]) for heal in heals for cell in (0, 1)]:
        (expected,), _ = posterior.predict(cell, [(look.start, look.depth)])
        slope = expected / math.log((1 + degradation_of(expected, TOLERANCE)) / (1 + TOLERANCE))
        shown.append(slope * math.log((1 + look.degradation) / (1 + TOLERANCE)))
    gain = covariance[:2, 2:] @ np.linalg.inv(covariance[2:, 2:])
    expected, left = JointPosterior(posterior, [0, 1], heals).predict(block)
    assert expected == pytest.approx(mean[:2] + gain @ (shown - mean[2:]), abs=1e-5)
    assert left == pytest.approx(covariance[:2, :2] - gain @ covariance[2:, :2], abs=1e-5)


def test_the_probability_that_all_are_within_is_the_normal_law_s():
    posterior, heals = _small()
    known = JointPosterior(posterior, [0, 1], heals)
    for block in [(4, 3), (5, 4), (6, 4), (4, 5)]:
        expected, covariance = known.predict(block)
        exact = multivariate_normal(expected, covariance).cdf(np.zeros(2))
        assert known.p_all_within(block) == pytest.approx(exact, abs=0.03)
        assert known.p_all_within(block) <= known.p_within(block).min() + 0.03


def test_the_chance_to_certify_is_how_often_a_heal_drawn_at_random_does():
    posterior, heals = _small()
    known = JointPosterior(posterior, [0, 1], heals)
    block, alpha = (5, 3), 0.1
    expected, covariance = known.outlook(block)
    rng = np.random.default_rng(1)
    gain = covariance[:2, 2:] @ np.linalg.inv(covariance[2:, 2:])
    left = covariance[:2, :2] - gain @ covariance[2:, :2]
    certified = []
    for shown in rng.multivariate_normal(expected[2:], covariance[2:, 2:], 400):
        after = multivariate_normal(expected[:2] + gain @ (shown - expected[2:]), left).cdf(np.zeros(2))
        certified.append(after >= 1 - alpha and (shown <= 0).all())
    chance = known.chance_to_certify(block, np.zeros(2, dtype=bool), alpha)
    assert 0.05 < chance < 0.95
    assert chance == pytest.approx(np.mean(certified), abs=0.08)


def test_running_heals_narrow_and_do_not_move():
    posterior, heals = _small()
    one = JointPosterior(posterior, [0, 1], heals[:1]).predict((5, 4))
    running = tuple(replace(look, state="running", degradation=None, se=0.0) for look in heals[1])
    both = JointPosterior(posterior, [0, 1], [heals[0], running]).predict((5, 4))
    assert both[0] == pytest.approx(one[0], abs=1e-6)
    assert (np.diag(both[1]) < np.diag(one[1])).all()


def test_a_heal_that_diverged_says_little():
    posterior, heals = _small()
    before, _ = JointPosterior(posterior, [0, 1], heals).predict((5, 4))
    diverged = tuple(replace(look, degradation=6.0) for look in heals[0])
    after, _ = JointPosterior(posterior, [0, 1], [*heals, diverged]).predict((5, 4))
    assert after == pytest.approx(before, abs=0.2)


# Mistakes


def test_mistakes_are_refused(world):
    for options in ({"price": 0}, {"max_heals": 0}, {"max_running": 0}, {"alpha": 0}, {"members": ["cell 9"]}):
        with pytest.raises(OptionError):
            JointSampler(world.pool, **options)
    with pytest.raises(OptionError, match="1 member or more"):
        JointSampler(Pool())
    other = replace(next(iter(world.pool.cells.values())), tolerance=0.3)
    world.pool.add(other, optuna.create_study(study_name="other"))
    with pytest.raises(OptionError, match="one tolerance"):
        JointSampler(world.pool)


@pytest.mark.parametrize("told", [[0.1, 0.1], 0.1, None])
def test_a_heal_tells_of_every_member(world, told):
    study = world.join()
    study.enqueue_trial({"start": 4, "depth": 2, "rung": "full"})
    trial = _ask(study)
    trial.set_user_attr("relative_degradation", told)
    trial.set_user_attr("se", [0.01] * 3)
    study.tell(trial, 2)
    with pytest.raises(DataError, match="one entry for each of 3 members"):
        study.sampler.suggest(study)
