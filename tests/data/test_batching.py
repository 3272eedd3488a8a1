from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from slamlab.data.batching import batches


def epoch(lengths: list[int], batch_size: int, seed: int) -> list[list[int]]:
    return list(islice(batches(lengths, batch_size, seed), -(-len(lengths) // min(batch_size, len(lengths)))))


@pytest.mark.parametrize("num_examples", [8, 40, 320, 323, 1000])
def test_every_index_comes_in_every_epoch(num_examples: int) -> None:
    rng = random.Random(0)
    stream = batches([rng.randrange(1, 500) for _ in range(num_examples)], 8, seed=1)
    for _ in range(3):
        taken = list(islice(stream, -(-num_examples // 8)))
        assert {len(batch) for batch in taken} == {8}
        counts = Counter(index for batch in taken for index in batch)
        assert counts.keys() == set(range(num_examples))
        assert sum(counts.values()) - num_examples == -num_examples % 8  # only the last batch is filled up
        assert max(counts.values()) <= 2


def test_the_order_is_that_of_the_seed_and_fresh_every_epoch() -> None:
    lengths = list(range(100))
    first, again, other = (list(islice(batches(lengths, 10, seed), 20)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert first[:10] != first[10:]


def test_neighbours_are_alike_in_length() -> None:
    rng = random.Random(0)
    lengths = [rng.randrange(1, 1000) for _ in range(640)]

    def padding(taken: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in taken)

    order = list(range(640))
    rng.shuffle(order)
    at_random = [order[i : i + 8] for i in range(0, 640, 8)]
    assert padding(epoch(lengths, 8, seed=0)) < padding(at_random) / 8


def test_batches_do_not_come_in_order_of_length() -> None:
    lengths = list(range(160))
    longest = [max(lengths[i] for i in batch) for batch in epoch(lengths, 10, seed=0)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


@pytest.mark.parametrize("num_examples", [1, 3])
def test_fewer_examples_than_a_batch_make_a_smaller_batch(num_examples: int) -> None:
    for batch in islice(batches([7] * num_examples, 8, seed=0), 4):
        assert sorted(batch) == list(range(num_examples))
