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
    told = method.how_judged(sweep[0]["sweep"], older, 0, ["wer", "bleu"])
    assert "feasible when P(heal alone) is at least 95.0" in told[1] and len(told) == 2
    assert not any("all evidence" in one for one in told)
    assert "all evidence" not in method.probes_note(sweep[0]["sweep"], older)


def test_verdicts_go_by_the_evidence_that_the_sampler_has(searched) -> None:
    results, _ = searched
    told = " ".join(method.how_judged(results["sweep"], results["probes"], 0, ["wer"]))
    assert "given all looks at the block itself, at the other blocks of the cell and at the decoder's other" in told
    assert "otherwise undecided: it lies between, or no heal of its own has shown it" in told
    assert "joint" not in told
    told = " ".join(method.how_judged({**results["sweep"], "sampler": "grid"}, results["probes"], 0, ["wer"]))
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


def test_decoding_and_splits_are_told_where_they_are_recorded(scored, sweep) -> None:
    results, _ = scored
    (told,) = method.how_decoded(results["sweep"])
    assert told.startswith("Answers were decoded greedily. Blocks are chosen on the selection split")
    assert "the figures reported are on the test split, which is always scored whole" in told
    results["sweep"]["scoring"]["num_beams"] = 4
    assert method.how_decoded(results["sweep"])[0].startswith("Answers were decoded with 4 beams. ")
    assert method.how_decoded({"sampler": "grid"}) == []


def test_what_the_bootstrap_draws_is_told(scored) -> None:
    results, _ = scored
    sweep, probes = results["sweep"], results["probes"]

    def told() -> str:
        return " ".join([*method.how_judged(sweep, probes, 0, ["wer"]), *method.caveats(sweep, probes, 0)])

    assert "paired bootstrap over utterances: it is" in told() and "the choice of utterances, and are wide" in told()
    assert "speakers" not in told()
    sweep["scoring"]["resample"] = "speaker"
    assert "paired bootstrap over speakers, each with all that they say" in told()
    assert "covers the choice of speakers only" in told() and "cover the choice of speakers, and are wide" in told()
    assert "choice of utterances" not in told()


def test_degradations_are_told_for_the_metrics_that_there_are(scored) -> None:
    results, _ = scored
    sweep = results["sweep"]
    (told, *_) = method.how_judged(sweep, [], 0, ["bleu", "cer", "wer"])
    assert "is (pruned − unpruned) / unpruned for WER and CER and (unpruned − pruned) / unpruned for BLEU. " in told
    (told, *_) = method.how_judged(sweep, [], 0, ["cer"])
    assert "is (pruned − unpruned) / unpruned for CER. " in told
    (told, *_) = method.how_judged(sweep, [], 0, ["chrf"])
    assert "is (unpruned − pruned) / unpruned for chrF. " in told
    (told, *_) = method.how_judged(sweep, [], 0, [])
    assert "for WER and CER and" in told and "for BLEU and chrF. " in told


def test_the_table_of_probes_warns_of_those_that_were_stopped(scored, searched) -> None:
    results, _ = scored
    assert "tend to exaggerate" in method.probes_note(results["sweep"], results["probes"])
    whole = [probe for probe in results["probes"] if not probe.get("stopped_early")]
    assert "exaggerate" not in method.probes_note(results["sweep"], whole)
