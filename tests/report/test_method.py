from __future__ import annotations

import pytest

from slamlab.report import method
from slamlab.search.strategies import SAMPLERS

LEAST = "angular distance between the residual stream entering the block and leaving it is least"


def test_every_sampler_is_described() -> None:
    assert list(method.SAMPLERS) == list(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_paper_and_bisect_start_at_the_least_distance(sweep, name: str) -> None:
    told = method.how_chosen({**sweep[0]["sweep"], "sampler": name})
    assert told.startswith(f"The sampler “{name}” ") and told.endswith(".") and ".." not in told
    assert (LEAST in told) == (name in ("paper", "bisect"))


def test_what_the_search_was_told_is_said(searched) -> None:
    sweep = searched[0]["sweep"]
    told = method.how_chosen(sweep)
    assert "at a price of 0.2 layers a heal" in told and "its limit of heals" in told and "Cheaper looks" in told
    sweep["search"] = {"price": 0.5, "max_heals": 1, "rungs": ["full"]}
    told = method.how_chosen(sweep)
    assert "0.5 layers" in told and "had had 1 full heal." in told and "Cheaper looks" not in told
    assert "until a cell had had 9 full heals." in method.how_chosen(
        {"sampler": "random", "search": {"max_heals": 9, "price": 0.2}}
    )


def test_a_sampler_of_another_day_is_named() -> None:
    assert method.how_chosen({"sampler": "hyperband"}) == "The blocks to try were chosen by the sampler “hyperband”."


def test_older_verdicts_go_by_the_heal_alone(sweep, searched) -> None:
    older = [{name: value for name, value in probe.items() if name != "p_feasible"} for probe in sweep[0]["probes"]]
    older = [probe for probe in older if probe.get("rung") == "full"]
    told = method.how_judged(sweep[0]["sweep"], older, 0)
    assert "feasible when P(heal alone) is at least 95.0" in told[1] and len(told) == 2
    assert not any("all evidence" in one for one in told)
    assert "all evidence" not in method.probes_note(sweep[0]["sweep"], older)


def test_verdicts_go_by_the_evidence_that_the_sampler_has(searched) -> None:
    results, _ = searched
    told = " ".join(method.how_judged(results["sweep"], results["probes"], 0))
    assert "given all looks at the block itself, at the other blocks of the cell and at the decoder's other" in told
    assert "otherwise undecided: it lies between, or no heal of its own has shown it" in told
    assert "joint" not in told
    told = " ".join(method.how_judged({**results["sweep"], "sampler": "grid"}, results["probes"], 0))
    assert "given the full heals of the block itself" in told and "other cells" not in told
    assert "full heals of the block itself" in method.probes_note(
        {**results["sweep"], "sampler": "tpe"}, results["probes"]
    )


def test_heals_and_caveats_say_what_there_was(sweep, searched, joint) -> None:
    results, _ = searched
    full = [probe for probe in results["probes"] if probe.get("rung") == "full" and not probe.get("repeat")]
    assert method.how_healed(full, 0) == ("Every pruned model was trained again with this recipe before it was scored.")
    told = method.how_healed(results["probes"], 1)
    assert "an unhealed look scores the model as it is cut and a short heal" in told and "A joint heal" in told
    assert "No block of a cell was healed more than once" in " ".join(method.caveats(results["sweep"], full, 0))
    caveats = " ".join(method.caveats(results["sweep"], results["probes"], 1))
    assert "show that luck" in caveats and "not looked at again on the test split" in caveats
    assert "statistical model" in caveats
    assert "statistical model" not in " ".join(method.caveats({"sampler": "grid"}, full, 0))
