"""How many threads the search's linear algebra takes, as threadpoolctl counts them."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from slamlab.search import posterior
from slamlab.search.evidence import SearchSpace
from slamlab.search.threads import on_one_thread


def _num_threads():
    return {library["filepath"]: library["num_threads"] for library in threadpool_info()}


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2):
        yield


@on_one_thread
def _count(fails=False):
    if fails:
        raise ValueError
    return _num_threads()


def test_inside_there_is_one_and_then_as_many_as_before():
    before = _num_threads()
    blas = {library["filepath"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert blas and all(before[one] == 2 for one in blas)
    assert {num for name, num in _count().items() if name in blas} == {1}
    assert _num_threads() == before
    with pytest.raises(ValueError):
        _count(fails=True)
    assert _num_threads() == before


def test_the_posterior_is_worked_out_on_one(monkeypatch):
    seen = []
    cholesky = np.linalg.cholesky
    monkeypatch.setattr(np.linalg, "cholesky", lambda matrix: seen.append(_num_threads()) or cholesky(matrix))
    space = SearchSpace(num_layers=4, distance=np.ones((5, 5)), tolerance=0.25, max_depth=3)
    posterior.Posterior([space], [[]]).predict(0, space.blocks)
    blas = {library["filepath"] for library in threadpool_info() if library["user_api"] == "blas"}
    assert seen and all(found[one] == 1 for found in seen for one in blas)
