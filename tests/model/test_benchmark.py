"""The benchmark of redundancy measures the same thing in all its ways."""

import numpy as np
import pytest
import torch
from scripts import load_script


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/redundancy.py")


def test_all_ways_find_the_same_distances_but_for_the_last_norm(benchmark):
    decoder, batches = benchmark._decoder(64, 3), benchmark._batches(64, 8, 5)
    with torch.inference_mode():
        ours, kept, passes = (way(decoder, batches) for way in list(benchmark.WAYS.values())[1:])
    np.testing.assert_allclose(kept[:3, :3], ours[:3, :3], atol=1e-5)
    np.testing.assert_allclose(passes[:3, :3], ours[:3, :3], atol=1e-5)
    assert ours[0, 2] > 0


def test_a_mistake_gets_a_sentence(benchmark, capsys):
    with pytest.raises(SystemExit) as left:
        benchmark.main(width=100, layers=3, length=5, num_samples=8, repeats=1)
    assert left.value.code == 2
    assert "width 100" in capsys.readouterr().err
