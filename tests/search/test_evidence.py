import numpy as np
import pytest

from slamlab.errors import DataError, ModelError, OptionError
from slamlab.search.evidence import MAX_TOLERANCE, SearchSpace


def _map(rows):
    """Return a map from its distances by depth: rows[n - 1] has those of the blocks of n layers."""
    num_layers = len(rows)
    distance = np.full((num_layers + 1, num_layers + 1), np.nan)  # on and below the diagonal never to be read
    for n, row in enumerate(rows, 1):
        for start, value in enumerate(row):
            distance[start, start + n] = value
    return distance


def _of_layers(turns):
    """Return the map of a decoder each of whose layers turns the stream by so much, always onwards."""
    num = len(turns)
    return _map([[sum(turns[start : start + n]) for start in range(num - n + 1)] for n in range(1, num + 1)])


def _space(distance, **options):
    num_layers = len(distance) - 1
    return SearchSpace(**{"num_layers": num_layers, "distance": distance, "tolerance": 0.25, "max_depth": 1, **options})


def _excess(distance):
    """Return the excess of every block there is, by depth."""
    num_layers = len(distance) - 1
    found = _space(distance).excess
    assert found.shape == (num_layers, num_layers + 1)
    return [found[: num_layers - n + 1, n].tolist() for n in range(1, num_layers + 1)]


def test_blocks_are_every_depth_at_every_start_where_it_fits():
    space = _space(_of_layers([1, 1, 1, 1]), max_depth=3)
    assert space.blocks == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3)]
    assert _space(_of_layers([1, 1])).blocks == [(0, 1), (1, 1)]


def test_starts_are_from_the_most_redundant_on_the_earlier_first_among_equals():
    distance = _of_layers([3, 1, 2, 1])
    space = _space(distance)
    assert space.starts(1).tolist() == [1, 3, 2, 0]
    assert space.starts(2).tolist() == [1, 2, 0]
    assert space.starts(4).tolist() == [0]
    assert [space.distance_of(start, 2) for start in range(3)] == [4, 3, 3]


def test_a_decoder_of_equal_layers_has_no_excess():
    assert _excess(_of_layers([0.1] * 6)) == [pytest.approx([0] * num, abs=1e-6) for num in (6, 5, 4, 3, 2, 1)]


def test_excess_is_read_along_the_least_distances():
    """Least distances are 1, 2, 3 and 8 for 1 to 4 layers: a distance of 5 is that of 3 + 2/5 layers."""
    assert _excess(_of_layers([1, 1, 1, 5])) == [
        pytest.approx(row, abs=1e-6) for row in ([0, 0, 0, 3.4 - 1], [0, 0, 3.6 - 2], [0, 3.8 - 3], [0])
    ]


def test_excess_of_a_map_that_does_not_grow_with_the_depth():
    """Two layers may turn the stream less than one, the whole decoder less than a part of it.

    The ruler is then flat at 2 over all 3 layers, 2/3 a layer on average, by which what lies beyond it is measured: a
    distance of 3 is that of 3 + 3/2 layers, one of 4 would be that of 6, and no block seems more than 3 layers worse.
    """
    assert _excess(_map([[4, 4, 2], [1, 3], [2]])) == [
        pytest.approx(row, abs=1e-6) for row in ([3, 3, 0], [0, 4.5 - 2], [0])
    ]


def test_excess_stays_finite_where_nothing_turns_the_stream():
    assert _excess(_map([[0, 0, 0], [0, 0], [0]])) == [[0, 0, 0], [0, 0], [0]]
    assert _excess(_map([[0, 1, 0], [0, 1], [0]])) == [[0, 3, 0], [0, 3], [0]]


def test_what_lies_on_or_below_the_diagonal_is_never_read():
    distance = _of_layers([1, 2, 1, 3])
    for other in (0.0, 9.0):
        filled = np.where(np.isnan(distance), other, distance)
        assert np.array_equal(_space(filled).excess, _space(distance).excess)
        assert _space(filled).starts(2).tolist() == _space(distance).starts(2).tolist()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"num_layers": 5}, DataError, "a redundancy map of 5 layers is 6 x 6, got 5 x 5: "),
        ({"distance": np.zeros((5, 4))}, DataError, "is 5 x 5, got 5 x 4: "),
        ({"distance": np.zeros(5)}, DataError, "is 5 x 5, got 5: "),
        ({"distance": np.zeros((2, 2)), "num_layers": 1}, ModelError, "2 layers or more, got 1: "),
        ({"max_depth": 0}, ModelError, "between 1 and 3 of 4 layers, got 0: "),
        ({"max_depth": 4}, ModelError, "between 1 and 3 of 4 layers, got 4: "),
        ({"tolerance": -0.1}, OptionError, "got -0.1: "),
        ({"tolerance": float("nan")}, OptionError, "got nan: "),
        ({"tolerance": float("inf")}, OptionError, "got inf: "),
        ({"tolerance": MAX_TOLERANCE + 1}, OptionError, f"between 0 and 5, got {MAX_TOLERANCE + 1}: "),
    ],
)
def test_what_cannot_be_searched_is_refused(options, error, said):
    with pytest.raises(error) as raised:
        _space(**{"distance": _of_layers([1, 1, 1, 1]), **options})
    assert said in str(raised.value)


@pytest.mark.parametrize(("start", "end"), [(1, 3), (0, 4), (3, 4)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_distance_that_is_read_must_be_there(start, end, value):
    """That of the whole decoder among them, although no search removes it: the others are compared with it."""
    distance = _of_layers([1, 1, 1, 1])
    distance[start, end] = value
    with pytest.raises(DataError, match=f"got {value} for start {start} and depth {end - start}: "):
        _space(distance)


def test_the_least_and_the_greatest_search_are_allowed():
    assert _space(_of_layers([1, 1]), tolerance=0.0).max_depth == 1
    assert _space(_of_layers([1, 1, 1, 1]), tolerance=MAX_TOLERANCE, max_depth=3).max_depth == 3
