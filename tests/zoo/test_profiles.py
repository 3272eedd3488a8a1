import dataclasses
import math

import pytest

from slamlab.errors import OptionError
from slamlab.zoo.profiles import PROFILES, RUNGS, Rung, as_json

FULL = PROFILES["pocket"].heal_recipe("mini")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heal_fraction": -0.1}, "a rung heals for a share in [0, 1], got -0.1: use 0 for none."),
        ({"heal_fraction": 1.1}, "a rung heals for a share in [0, 1], got 1.1: "),
        ({"heal_fraction": math.nan}, "a rung heals for a share in [0, 1], got nan: "),
        ({"score_fraction": 0.0}, "a rung scores a share in (0, 1], got 0.0: use 1 for all."),
        ({"score_fraction": 1.5}, "a rung scores a share in (0, 1], got 1.5: "),
        ({"score_fraction": math.nan}, "a rung scores a share in (0, 1], got nan: "),
    ],
)
def test_a_rung_out_of_range_is_refused(changed, message):
    with pytest.raises(OptionError) as caught:
        Rung(**{"name": "odd", "heal_fraction": 0.5, "score_fraction": 0.5, **changed})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("num_selection", "scored"),
    [
        (240, [60, 120, 240]),
        (241, [61, 121, 241]),
        (30, [10, 15, 30]),
        (12, [10, 10, 12]),
        (6, [6, 6, 6]),
        (0, [0] * 3),
    ],
)
def test_a_rung_scores_its_share_but_ten_where_there_are(num_selection, scored):
    assert list(RUNGS) == ["unhealed", "short", "full"]
    assert [rung.num_scored(num_selection) for rung in RUNGS.values()] == scored


@pytest.mark.parametrize(("num_steps", "short"), [(200, 20), (26, 3), (3, 1), (1, 1), (0, 0)])
def test_a_rung_heals_for_its_share_of_steps_by_the_recipe(num_steps, short):
    full = dataclasses.replace(FULL, train=dataclasses.replace(FULL.train, num_steps=num_steps))
    assert RUNGS["unhealed"].heal_recipe(full) is None
    assert RUNGS["full"].heal_recipe(full) == full
    train = dataclasses.replace(FULL.train, num_steps=short)
    assert RUNGS["short"].heal_recipe(full) == dataclasses.replace(FULL, train=train)


def test_a_recipe_is_told_as_before_unless_it_asks_for_what_is_new():
    train = as_json(FULL)["train"]
    assert "gradient_checkpointing" not in train
    again = dataclasses.replace(FULL, train=dataclasses.replace(FULL.train, gradient_checkpointing=True))
    assert as_json(again)["train"] == train | {"gradient_checkpointing": True}


@pytest.mark.parametrize(("scale", "again"), [("1.5b", False), ("3b", False), ("7b", True), ("8b", True), ("9b", True)])
def test_large_decoders_compute_activations_again(scale, again):
    recipe = PROFILES["paper"].heal_recipe(scale).train
    assert recipe.gradient_checkpointing is again
    assert dataclasses.replace(recipe, gradient_checkpointing=False) == PROFILES["paper"].heal_recipe("1b").train
