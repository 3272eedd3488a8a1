"""The Gaussian process, against the same by loops over pairs of looks and numpy's solve."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from slamlab.search import posterior as process
from slamlab.search import prior
from slamlab.search.evidence import RUNGS, Look, SearchSpace
from slamlab.search.posterior import STEPS, Posterior
from slamlab.search.responses import MAX_DEGRADATION, C, degradation_of, held, response, secant

TOLERANCE = 0.25


def _space(num_layers=6, seed=0, tolerance=TOLERANCE, max_depth=None, **factors):
    rng = np.random.default_rng(seed)
    turns = np.concatenate([[0.0], np.cumsum(rng.uniform(0.02, 0.1, num_layers))])
    return SearchSpace(
        num_layers=num_layers,
        distance=np.abs(turns[None] - turns[:, None]) * rng.uniform(0.9, 1.1, (num_layers + 1, num_layers + 1)),
        tolerance=tolerance,
        max_depth=max_depth or num_layers - 1,
        factors=factors,
    )


SPACES = [
    _space(seed=0, encoder="small", language="de"),
    _space(seed=1, encoder="small", language="fr"),
    _space(seed=2, encoder="large", language="fr", tolerance=0.4),
]
BLOCKS = SPACES[0].blocks


def _degradation(cell, start, depth):
    """Return a truth that all tests share: about the tolerance for a third of the layers, worse at both ends."""
    return 0.25 * math.exp(0.7 * (depth - 2)) * (1 + 0.1 * cell) + 0.1 * (start == 0)


def _looks(seed, rungs=RUNGS, num=5, num_cells=3):
    """Return looks by cell, some of them at the same block."""
    rng = np.random.default_rng(seed)
    found = []
    for cell in range(num_cells):
        blocks = [BLOCKS[i] for i in rng.integers(len(BLOCKS), size=num - 1)]
        own = []
        for start, depth in [*blocks, blocks[0]]:
            rung = rungs[rng.integers(len(rungs))]
            error = 0.02 * rng.standard_normal()
            degradation = _degradation(cell, start, depth) * {"unhealed": 3, "short": 1.3, "full": 1}[rung] + error
            own.append(Look(start=start, depth=depth, rung=rung, degradation=degradation, se=rng.uniform(0.01, 0.04)))
        found.append(own)
    return found


def _rows(looks):
    return [(cell, look) for cell, own in enumerate(looks) for look in own]


class Brute:
    """The model as its docstrings have it, one pair of (cell, look) at a time.

    Args:
        spaces: The cells.
        rows: Complete looks with their cells, none of them implausible.
        scale: The multipliers.
    """

    def __init__(self, spaces, rows, scale):
        self.spaces, self.rows, self.scale = spaces, rows, scale
        self.ratio = [math.log((1 + self.held(row[1])) / (1 + self.tolerance(row))) for row in rows]
        ones = dict.fromkeys(scale, 1.0)
        self.assume([self.held(look) for _, look in rows])
        self.assume(self.believed(ones))
        self.to_learn = self.noise, self.residual  # the multipliers are learned with these
        self.assume(self.believed(scale))

    def tolerance(self, row):
        return self.spaces[row[0]].tolerance

    @staticmethod
    def held(look):
        return MAX_DEGRADATION if look.degradation is None else min(max(look.degradation, -C / 2), MAX_DEGRADATION)

    def place(self, cell, look):
        num_layers = self.spaces[cell].num_layers
        excess = self.spaces[cell].excess[look.start, look.depth]
        return look.start / num_layers, look.depth / num_layers, excess / num_layers

    def mean(self, cell, look):
        _, depth, excess = self.place(cell, look)
        return prior.SLOPE * (depth - prior.EDGE + prior.TRUST * excess)

    def latent(self, a, b, scale):
        """Return the prior covariance of two latent responses."""
        (cell, look), (other, seen) = a, b
        (start, depth, excess), (start2, depth2, excess2) = self.place(*a), self.place(*b)
        line, trust = (depth - prior.EDGE) * (depth2 - prior.EDGE), excess * excess2
        begin = math.exp(-((start - start2) ** 2) / (2 * prior.LENGTH**2))
        end = math.exp(-((start + depth - start2 - depth2) ** 2) / (2 * prior.LENGTH**2))
        same_depth = look.depth == seen.depth
        same_block = same_depth and look.start == seen.start
        total = prior.EDGE_SD**2 + prior.SLOPE_SD**2 * line + prior.TRUST_SD**2 * trust
        field = prior.FIELD_SD**2 * (begin + end) + prior.PAIR_SD**2 * begin * end
        field += prior.DEPTH_SD**2 * same_depth + prior.BLOCK_SD**2 * same_block
        total += scale["field"] ** 2 * field
        factors, factors2 = self.spaces[cell].factors, self.spaces[other].factors
        num_alike = sum(factors[name] == factors2[name] for name in factors)
        total += scale["factor"] ** 2 * prior.FACTOR_SD**2 * num_alike
        if cell == other:
            own = prior.CELL_SD**2 + prior.CELL_SLOPE_SD**2 * line + prior.CELL_TRUST_SD**2 * trust
            total += scale["cell"] ** 2 * (own + prior.CELL_PAIR_SD**2 * begin * end)
            total += scale["own"] ** 2 * prior.OWN_SD**2 * same_block
        if look.rung == seen.rung != "full":
            bias = prior.RUNG_SD**2 + prior.RUNG_SLOPE_SD**2 * line + prior.RUNG_TRUST_SD**2 * trust
            bias += prior.RUNG_PAIR_SD**2 * begin * end + prior.RUNG_CELL_SD**2 * (cell == other)
            total += scale["rung"] ** 2 * bias
            total += scale["rung_own"] ** 2 * prior.RUNG_OWN_SD**2 * (cell == other and same_block)
        return prior.SLOPE**2 * total

    def slope(self, row, degradation):
        """Return that of the line through response and log ratio at the tolerance and at a look's true degradation."""
        true, tolerance = max(degradation, -C / 2), self.tolerance(row)
        return math.log((true + C) / (tolerance + C)) / math.log((1 + true) / (1 + tolerance))

    def errors(self, row, degradation):
        """Return the variances that test set and seed give the response of a look whose true degradation this is."""
        se, slope = row[1].se / (1 + self.held(row[1])), self.slope(row, degradation)
        return (se * slope) ** 2, (process.SEED_SD**2 + se**2) * slope**2

    @staticmethod
    def shared(a, test, b, test2):
        """Return the covariance of the test set's errors of two looks."""
        (cell, look), (other, seen) = a, b
        if cell != other or look.rung != seen.rung:
            return 0.0
        same = (look.start, look.depth) == (seen.start, seen.depth)
        return min(test, test2) * (1.0 if same else prior.TEST_SHARED)

    def assume(self, degradations):
        """Take what looks show, and its noise, as if their true degradations were these."""
        pairs = list(zip(self.rows, degradations, strict=True))
        self.noise = [self.errors(*pair) for pair in pairs]
        shown = [self.slope(*pair) * ratio for pair, ratio in zip(pairs, self.ratio, strict=True)]
        self.residual = np.array(shown) - np.array([self.mean(*row) for row in self.rows])

    def covariance(self, scale, noise=None):
        """Return that of the responses of all looks."""
        noise = noise or self.noise
        found = np.zeros((len(self.rows),) * 2)
        for (i, a), (j, b) in itertools.product(enumerate(self.rows), repeat=2):
            found[i, j] = self.latent(a, b, scale) + self.shared(a, noise[i][0], b, noise[j][0])
            found[i, j] += (scale["seed"] ** 2 * noise[i][1] + 1e-8) * (i == j)
        return found

    def believed(self, scale):
        """Return the degradations that all looks together expect of each."""
        cross = np.array([[self.latent(a, b, scale) for b in self.rows] for a in self.rows])
        latent = np.array([self.mean(*row) for row in self.rows]) + cross @ np.linalg.solve(
            self.covariance(scale), self.residual
        )
        return [
            min(math.exp(g) * (self.tolerance(row) + C) - C, MAX_DEGRADATION)
            for g, row in zip(latent, self.rows, strict=True)
        ]

    def predict(self, asked, heal=None):
        """Return means [Q] and covariance [Q, Q] of latent responses.

        With the variances `heal` (test, seed): their covariances [Q] with what heals will show, and its variances [Q].
        """
        cross = np.array([[self.latent(a, b, self.scale) for b in self.rows] for a in asked])
        prior = np.array([[self.latent(a, b, self.scale) for b in asked] for a in asked])
        latent_cross = cross.copy()
        if heal is not None:
            test, seed = heal
            for (i, a), (j, b) in itertools.product(enumerate(asked), enumerate(self.rows)):
                cross[i, j] += self.shared(a, test, b, self.noise[j][0])
        known = self.covariance(self.scale)
        mean = np.array([self.mean(*row) for row in asked]) + cross @ np.linalg.solve(known, self.residual)
        if heal is None:
            return mean, prior - cross @ np.linalg.solve(known, cross.T)
        together = prior - latent_cross @ np.linalg.solve(known, cross.T)
        shown = prior + (test + seed) * np.eye(len(asked)) - cross @ np.linalg.solve(known, cross.T)
        return np.diag(together), np.diag(shown)

    def log_probability(self, scale):
        """Return that of what was shown, and of the multipliers a priori."""
        noise, residual = self.to_learn
        covariance = self.covariance(scale, noise)
        prior = sum(norm(0, process.LOG_SD).logpdf(math.log(value)) for value in scale.values())
        return multivariate_normal(cov=covariance).logpdf(residual) + prior


@pytest.fixture(scope="module", params=range(4))
def case(request):
    """Return a posterior of three cells, two of which share each a factor, and the same by brute force."""
    rungs = ("full",) if request.param == 0 else RUNGS
    looks = _looks(request.param, rungs)
    posterior = Posterior(SPACES, looks)
    assert not posterior._extra.any()  # no look is odd
    return posterior, Brute(SPACES, _rows(looks), posterior.scale), looks


def _asked(cell, rung="full", blocks=BLOCKS):
    return [(cell, Look(start=start, depth=depth, rung=rung)) for start, depth in blocks]


def _predict(posterior, cell, rung, blocks=BLOCKS):
    """Return means and variances of what the blocks of a cell show on a rung, in the long run."""
    mean, covariance = posterior.joint(_asked(cell, rung, blocks))
    return mean, np.diag(covariance)


# The posterior, exactly


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("cell", range(3))
def test_means_and_variances_are_those_of_brute_force(case, cell, rung):
    posterior, brute, _ = case
    mean, covariance = brute.predict(_asked(cell, rung))
    asked = [_predict(posterior, cell, rung), *([posterior.predict(cell, BLOCKS)] if rung == "full" else [])]
    for found in asked:
        np.testing.assert_allclose(found[0], mean, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(found[1], np.diag(covariance), rtol=1e-6)
    if rung == "full":
        within = norm.cdf(-mean / np.sqrt(np.diag(covariance)))
        np.testing.assert_allclose(posterior.p_within(cell, BLOCKS), within, rtol=1e-6, atol=1e-12)


def test_joint_laws_over_cells_and_rungs_are_those_of_brute_force(case):
    posterior, brute, _ = case
    asked = [*_asked(0, "short", BLOCKS[:4]), *_asked(2, blocks=BLOCKS[2:9]), *_asked(0, blocks=BLOCKS[:4])]
    for found, expected in zip(posterior.joint(asked), brute.predict(asked), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cell", range(3))
def test_what_one_more_heal_would_tell_is_that_of_brute_force(case, cell):
    """A heal's error of the test set is that of earlier looks, at its block wholly, elsewhere in the cell in part."""
    posterior, brute, _ = case
    mean, covariance = brute.predict(_asked(cell))
    noise = posterior.noise(cell)
    together, shown = brute.predict(_asked(cell), noise)
    found = posterior.outlook(cell, BLOCKS)
    for value, expected in zip(found, (mean, np.diag(covariance), together, shown), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-8)


def test_a_heal_to_come_is_as_noisy_as_those_of_its_cell_were(case):
    posterior, _, looks = case
    for cell, space in enumerate(SPACES):
        own = [look for look in looks[cell] if look.rung == "full"] or [
            look for cell in looks for look in cell if look.rung == "full"
        ]
        test, seed = posterior.noise(cell)
        se = np.median([look.se / (1 + held(look.degradation)) for look in own])
        slope = (1 + space.tolerance) / (space.tolerance + C)  # at the tolerance, of the response on the log ratio
        assert test == pytest.approx((se * slope) ** 2)
        sd = math.hypot(process.SEED_SD, se) * posterior.scale["seed"]
        assert seed == pytest.approx((sd * slope) ** 2)


def test_multipliers_are_more_probable_than_their_neighbours(case):
    posterior, brute, _ = case
    best = brute.log_probability(posterior.scale)
    neighbours = [
        {**posterior.scale, group: STEPS[i]}
        for group, value in posterior.scale.items()
        for i in (STEPS.index(value) - 1, STEPS.index(value) + 1)
        if 0 <= i < len(STEPS)
    ]
    assert len(neighbours) > 6
    assert all(brute.log_probability(scale) <= best + 1e-8 for scale in neighbours)
    assert best >= brute.log_probability(dict.fromkeys(posterior.scale, 1.0))


def test_multipliers_follow_what_is_seen():
    """Cells that are alike, then cells each with an edge of its own; heals that repeat well, then badly."""
    blocks = [(1, 1), (2, 2), (1, 3), (2, 4)]

    def scale(edges, errors):
        looks = [
            [
                Look(start=start, depth=depth, degradation=0.3 * math.exp(1.3 * (depth - edge) + error) - C, se=0.003)
                for start, depth in blocks
                for error in errors
            ]
            for edge in edges
        ]
        return Posterior([_space(seed=0)] * len(edges), looks).scale

    assert scale([2, 2, 2, 2], [0.0])["cell"] < 1 < scale([1, 3, 2, 4], [0.0])["cell"]
    assert scale([2, 2], [0.0] * 4)["seed"] < 1 < scale([2, 2], [0.3, -0.3])["seed"]


# Responses


def test_a_response_is_zero_at_the_tolerance_and_turns_back_into_its_degradation():
    for tolerance in (0.0, 0.1, 0.25, 5.0):
        assert response(tolerance, tolerance) == 0
        for degradation in (-C / 2, 0.0, 0.1, 0.25, 3.0, MAX_DEGRADATION):
            assert degradation_of(response(degradation, tolerance), tolerance) == pytest.approx(degradation)
            assert (response(degradation, tolerance) > 0) == (degradation > tolerance)
    assert degradation_of(50.0, TOLERANCE) == MAX_DEGRADATION


def test_degradations_are_held_in_what_can_be_told_apart():
    assert held(None) == held(math.inf) == held(300.0) == MAX_DEGRADATION
    assert held(-0.9) == held(-C) == -C / 2
    assert held(0.1) == 0.1


@pytest.mark.parametrize(("extreme", "same"), [(None, MAX_DEGRADATION), (math.inf, MAX_DEGRADATION), (-0.8, -C / 2)])
def test_a_degradation_beyond_what_can_be_told_apart_counts_as_the_last_that_can(extreme, same):
    found = [
        Posterior(SPACES[:1], [[Look(start=2, depth=3, degradation=value, se=0.02)]]).predict(0, BLOCKS)
        for value in (extreme, same)
    ]
    np.testing.assert_array_equal(found[0], found[1])


# Looks of every kind


def test_a_diverged_heal_that_gave_a_number_is_not_believed(monkeypatch):
    sound = _looks(7, ("full",), num=8)
    mad = [[Look(start=2, depth=1, degradation=9.0, se=0.03), *sound[0]], *sound[1:]]
    before = Posterior(SPACES, sound)
    after = Posterior(SPACES, mad)
    assert np.flatnonzero(after._extra).tolist() == [0]
    monkeypatch.setattr(process, "OUTLIER_Z", math.inf)
    believed = Posterior(SPACES, mad)
    moved, taken_in = (
        np.abs(other.predict(0, BLOCKS)[0] - before.predict(0, BLOCKS)[0]).max() for other in (after, believed)
    )
    assert moved < 0.15
    assert taken_in > 5 * moved


def test_good_luck_is_not_widened():
    """What is implausibly good may be the block that the search is for."""
    looks = _looks(7, ("full",), num=8)
    looks[0].insert(0, Look(start=1, depth=5, degradation=-0.02, se=0.01))
    posterior = Posterior(SPACES, looks)
    assert posterior._extra[0] == 0
    assert posterior.predict(0, [(1, 5)])[0] < 0


def test_repeats_average_the_seed_and_not_the_test_set():
    """Where a block alone was healed often, what is left is the prior against the test set's error."""
    block, se = (2, 3), 0.05
    left = {}
    for num in (1, 2, 400):
        looks = [[Look(start=2, depth=3, degradation=TOLERANCE, se=se)] * num]
        posterior = Posterior(SPACES[:1], looks[:1])
        left[num] = posterior.predict(0, [block])[1][0]
    assert left[1] > left[2] > left[400]
    ((expected,), _) = posterior.predict(0, [block])
    prior = Posterior(SPACES[:1], [[]])
    prior.scale = posterior.scale
    before = prior.predict(0, [block])[1][0]
    true = degradation_of(expected, TOLERANCE)
    test = (se / (1 + TOLERANCE) * response(true, TOLERANCE) / math.log((1 + true) / (1 + TOLERANCE))) ** 2
    assert left[400] == pytest.approx(before * test / (before + test), rel=0.02)


def test_running_looks_move_no_mean_and_leave_less_to_know():
    looks = _looks(3)
    running = [[Look(start=1, depth=4, state="running")], [], [Look(start=0, depth=2, rung="short", state="running")]]
    more = [[*own, *new] for own, new in zip(looks, running, strict=True)]
    before, after = Posterior(SPACES, looks), Posterior(SPACES, more)
    known = before.predict(0, BLOCKS)
    for cell, rung in itertools.product(range(3), RUNGS):
        mean, variance = _predict(before, cell, rung)
        mean_then, variance_then = _predict(after, cell, rung)
        np.testing.assert_allclose(mean_then, mean, rtol=0, atol=1e-9)
        assert (variance_then <= variance + 1e-9).all()
    assert after.predict(0, [(1, 4)])[1] < 0.7 * before.predict(0, [(1, 4)])[1]
    left = [_predict(posterior, 2, "short", [(0, 2)])[1] for posterior in (before, after)]
    assert left[1] < 0.7 * left[0]
    np.testing.assert_array_equal(before.expecting(more).predict(0, BLOCKS), after.predict(0, BLOCKS))
    np.testing.assert_array_equal(before.predict(0, BLOCKS), known)  # it has not itself been changed


def test_a_running_look_is_worth_what_it_will_tell():
    """What is left when a heal runs is what its outlook says will be left, if its noise is that of the tolerance."""
    looks = _looks(3, ("full",))
    before = Posterior(SPACES, looks)
    block = min(BLOCKS, key=lambda block: abs(before.predict(0, [block])[0][0]))
    _, (variance,), (together,), (shown,) = before.outlook(0, [block])
    after = before.expecting([[Look(start=block[0], depth=block[1], state="running")], [], []])
    assert after.predict(0, [block])[1][0] == pytest.approx(variance - together**2 / shown, rel=0.1)


def test_failed_looks_change_nothing():
    looks = _looks(2)
    failed = [[Look(start=1, depth=1, state="failed"), *own, Look(start=2, depth=3, state="failed")] for own in looks]
    np.testing.assert_array_equal(*(Posterior(SPACES, told).predict(1, BLOCKS) for told in (looks, failed)))


def test_nothing_depends_on_the_order_of_cells_or_looks():
    looks = _looks(1, num=7)
    found = Posterior(SPACES, looks)
    rng = np.random.default_rng(0)
    for cells in itertools.permutations(range(3)):
        shuffled = [[looks[cell][i] for i in rng.permutation(len(looks[cell]))] for cell in cells]
        other = Posterior([SPACES[cell] for cell in cells], shuffled)
        assert other.scale == found.scale
        for number, cell in enumerate(cells):
            np.testing.assert_allclose(other.outlook(number, BLOCKS), found.outlook(cell, BLOCKS), rtol=0, atol=1e-9)


def test_of_too_many_looks_those_nearest_to_the_tolerance_count(monkeypatch):
    (looks,) = _looks(4, ("full",), num=12, num_cells=1)
    near = sorted(looks, key=lambda look: abs(response(look.degradation, TOLERANCE)))[:5]
    expected = Posterior(SPACES[:1], [[look for look in looks if look in near]]).predict(0, BLOCKS)
    monkeypatch.setattr(process, "NUM_NEAREST", 5)
    np.testing.assert_array_equal(Posterior(SPACES[:1], [looks]).predict(0, BLOCKS), expected)


def test_of_too_many_looks_every_cell_keeps_its_own(monkeypatch):
    """Cells whose looks are far from the tolerance know them still."""
    near, far, none = (
        [Look(start=i % 3, depth=1 + i % 4, degradation=0.25 + sign * 0.01 * i, se=0.02) for i in range(1, num + 1)]
        for num, sign in ((9, 1), (4, 8), (0, 1))
    )
    for most, per_cell, kept in ((3, 2, (2, 2, 0)), (6, 2, (4, 2, 0)), (6, 1, (5, 1, 0)), (20, 1, (9, 4, 0))):
        monkeypatch.setattr(process, "NUM_NEAREST", most)
        monkeypatch.setattr(process, "OWN_LOOKS", per_cell)
        few = Posterior(SPACES, [near[: kept[0]], far[: kept[1]], none])
        np.testing.assert_array_equal(Posterior(SPACES, [near, far, none]).predict(1, BLOCKS), few.predict(1, BLOCKS))
    monkeypatch.setattr(process, "MAX_LOOKS", 3)  # then its nearest
    monkeypatch.setattr(process, "NUM_NEAREST", 2)
    monkeypatch.setattr(process, "OWN_LOOKS", 3)
    few = Posterior(SPACES, [near[:2], far[:1], none])
    np.testing.assert_array_equal(Posterior(SPACES, [near, far, none]).predict(1, BLOCKS), few.predict(1, BLOCKS))


def test_of_a_cells_looks_its_heals_are_kept_first(monkeypatch):
    near = [Look(start=i % 3, depth=2, degradation=0.25, se=0.02) for i in range(6)]
    cheap = [Look(start=i, depth=3, rung="short", degradation=0.25, se=0.02) for i in range(3)]
    heal = Look(start=0, depth=1, degradation=0.01, se=0.02)
    monkeypatch.setattr(process, "NUM_NEAREST", 2)
    monkeypatch.setattr(process, "OWN_LOOKS", 2)
    few = Posterior(SPACES[:2], [near[:2], [cheap[0], heal]])
    found = Posterior(SPACES[:2], [near, [*cheap, heal]])
    np.testing.assert_array_equal(found.predict(1, BLOCKS), few.predict(1, BLOCKS))


def test_what_is_no_block_has_no_answer():
    posterior = Posterior(SPACES, _looks(1))
    for start, depth in ((0, 0), (3, 4), (5, 2)):
        with pytest.raises(IndexError):
            posterior.predict(0, [(start, depth)])


def test_multipliers_are_learned_from_those_nearest_to_the_tolerance(monkeypatch):
    (looks,) = _looks(4, ("full",), num=12, num_cells=1)
    near = sorted(looks, key=lambda look: abs(response(look.degradation, TOLERANCE)))[:6]
    monkeypatch.setattr(process, "MAX_FITTED", 6)
    far_seen = Posterior(SPACES[:1], [looks])
    assert len(far_seen._weights) == 12
    monkeypatch.setattr(process, "MAX_FITTED", 12)
    few = Posterior(SPACES[:1], [[look for look in looks if look in near]])
    assert far_seen.scale == pytest.approx(few.scale)


# At the limits of what may come


def _sound(posterior, spaces):
    for cell, space in enumerate(spaces):
        mean, variance = posterior.predict(cell, space.blocks)
        assert np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()
        p = posterior.p_within(cell, space.blocks)
        assert ((p >= 0) & (p <= 1)).all()
        assert all(np.isfinite(part).all() for part in posterior.outlook(cell, space.blocks))
    return True


@pytest.mark.parametrize("tolerance", [0.0, 0.25, 5.0])
@pytest.mark.parametrize("degradations", [[None], [0.0], [-3.0], [5.0, None], [-0.03, 0.0, 1e6, math.inf, 1e-12]])
@pytest.mark.parametrize("se", [0.0, 0.02, 1e9, math.inf])
def test_every_look_can_be_taken_in(tolerance, degradations, se):
    for num_layers in (2, 3, 40):
        space = _space(num_layers, tolerance=tolerance, max_depth=1 if num_layers < 4 else 28)
        picked = space.blocks[:: max(1, len(space.blocks) // 9)]
        looks = [
            Look(start=start, depth=depth, rung=rung, degradation=degradation, se=se)
            for start, depth in picked
            for degradation, rung in zip(degradations * 2, itertools.cycle(("full", "unhealed")))
        ]
        running = [Look(start=0, depth=1, state="running"), Look(start=1, depth=1, state="running")]
        assert _sound(Posterior([space], [[*looks, *running]]), [space])


def test_a_look_repeated_without_any_error_can_be_taken_in():
    looks = [Look(start=2, depth=2, degradation=0.2)] * 100
    posterior = Posterior(SPACES[:1], [looks])
    assert _sound(posterior, SPACES[:1])
    assert posterior.p_within(0, [(2, 2)])[0] > 0.99


def test_a_map_that_makes_no_sense_can_be_searched():
    distance = np.random.default_rng(0).choice([0.0, 1.0], (13, 13))
    space = SearchSpace(num_layers=12, distance=distance, tolerance=TOLERANCE, max_depth=11)
    looks = [Look(start=start, depth=depth, degradation=0.1 * depth, se=0.02) for start, depth in space.blocks[::3]]
    assert _sound(Posterior([space], [looks]), [space])


def test_without_looks_there_is_the_prior():
    for looks in ([[]], [[Look(start=0, depth=1, state="failed")]]):
        posterior = Posterior(SPACES[:1], looks)
        mean, variance = posterior.predict(0, BLOCKS)
        brute = Brute.__new__(Brute)
        brute.spaces = SPACES
        ones = dict.fromkeys(prior.GROUPS, 1.0)
        assert mean.tolist() == pytest.approx([brute.mean(*row) for row in _asked(0)])
        assert variance.tolist() == pytest.approx([brute.latent(row, row, ones) for row in _asked(0)])


def test_a_cell_in_which_all_harms_is_soon_known_to_be_one():
    looks = [[Look(start=start, depth=1, degradation=None) for start in range(6)]]
    assert (Posterior([_space()], looks).p_within(0, BLOCKS) < 0.2).all()


def test_harm_that_another_heal_confirms_is_no_accident():
    """One heal far worse than all its neighbours promise is doubted, two of the same block are believed."""
    space, block = SPACES[0], (2, 3)
    around = [Look(start=2, depth=depth, degradation=0.0, se=0.02) for depth in (1, 2, 4, 5)]
    bad = Look(start=2, depth=3, degradation=4.0, se=0.02)
    p = [Posterior([space], [[*around, *[bad] * num]]).p_within(0, [block])[0] for num in (0, 1, 2)]
    assert p[0] > 0.95
    assert p[1] > 0.5
    assert p[2] < 0.1


def test_a_look_is_as_many_errors_from_the_tolerance_in_its_response_as_in_the_logarithm_of_its_ratio():
    for true in (-0.02, 0.0, 0.1, 0.2499, 0.25, 0.2501, 0.6, 3.0):
        test, _ = process._variances(0.03, secant(np.array(true), 0.25))
        assert response(true, 0.25) / math.sqrt(test) == pytest.approx(math.log((1 + true) / 1.25) / 0.03, abs=1e-6)


def test_a_wide_error_far_beyond_the_tolerance_leaves_no_doubt():
    """Twelve times the errors of a base that makes few, give or take a third, is not one and a quarter times them."""
    look = Look(start=11, depth=8, degradation=11.19, se=3.8)
    posterior = Posterior([_space(30, max_depth=20)], [[look]])
    assert posterior.p_within(0, [(11, 8)])[0] < 0.01
