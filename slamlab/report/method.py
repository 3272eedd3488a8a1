"""What a sweep did, in words that hold for the sampler, the rungs and the verdicts of its records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from slamlab.report.early import was_stopped
from slamlab.report.results import is_full, rung_of
from slamlab.report.writing import metric_name, percent
from slamlab.scoring.metrics import METRICS

LEAST_DISTANCE = (
    "at the start where the angular distance between the residual stream entering the block and leaving it is least "
    "(Gromov et al., arXiv 2403.17887)"
)
_BY_RANK = (
    "over the depth and the rank of the start by angular distance, among the least distant starts of each depth, "
    "asked for the greatest depth under the constraint that the degradation is within the tolerance"
)
SAMPLERS = {
    "frontier": "weighed every block of every cell of a decoder, each depth and each start, with one Gaussian process "
    "over all of them: what it knows of a block comes from looks at the block itself, at its neighbours and at the "
    "decoder's other cells, and from the angular distance as far as the looks bear it out. Dynamic programming over "
    "the depths chose each next heal",
    "grid": "tried every block, each start of each depth, once, from the shallowest depth on",
    "paper": f"tried every depth once, from the shallowest on, {LEAST_DISTANCE}, as Moumen et al. do "
    "(arXiv 2603.05121)",
    "bisect": "bisected over the depth, on the assumption that deeper blocks do more harm, and removed each depth "
    f"{LEAST_DISTANCE}",
    "tpe": f"was Optuna's tree-structured Parzen estimator {_BY_RANK}",
    "gp": f"was Optuna's Gaussian process with constrained expected improvement, {_BY_RANK}",
    "random": "drew blocks by chance, each depth and start as likely as another",
}
"""What each sampler did; the sentence begins with its name."""
CURVE = "curve"
"""In place of a sampler: what was removed did not depend on what was found."""
CURVES = {
    "paper": f"removed {LEAST_DISTANCE}, as Moumen et al. do (arXiv 2603.05121)",
    "deepest": "made of the deepest layers but the very last, which stays, as in the simpler strategy that Gromov et "
    "al. compare with",
    "random": "removed at a random start, drawn from the seed and the depth alone and so the same in all cells of as "
    "many layers",
}
"""What each method of a curve removes, as it follows `one`."""
_ON_OWN_HEALS = "the full heals of the block itself"
_EVIDENCE = {
    "frontier": "all looks at the block itself, at the other blocks of the cell and at the decoder's other cells",
    **dict.fromkeys(("grid", "paper", "bisect", "tpe", "gp", "random", CURVE), _ON_OWN_HEALS),
}


def goes_by_evidence(probes: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the verdicts of these records go by all evidence; older ones go by each heal alone."""
    return any(probe.get("p_feasible") is not None for probe in probes)


def how_chosen(sweep: Mapping[str, Any]) -> str:
    """Return how the sampler of a sweep chose the blocks."""
    name, search = sweep["sampler"], sweep.get("search") or {}
    if name == CURVE:
        return _how_drawn(search)
    if name not in SAMPLERS:
        return f"The blocks to try were chosen by the sampler “{name}”."
    told = f"The sampler “{name}” {SAMPLERS[name]}"
    price, budget = search.get("price"), search.get("max_heals")
    if name == "frontier":
        told += f" at a price of {price:g} layers a heal" if price is not None else ""
        told += ", until none promised to be worth it"
        told += (
            f" or a cell had had {_heals(budget)}" if budget is not None else " or a cell had had its limit of heals"
        )
        cheap = [rung for rung in search.get("rungs") or () if rung != "full"]
        if cheap:
            told += (
                ". Cheaper looks were taken first: to learn what they are worth, then where they were worth their cost"
            )
    elif name in ("tpe", "gp", "random"):
        told += (
            f", until a cell had had {_heals(budget)}" if budget is not None else ", up to its limit of heals a cell"
        )
    return told + "."


def _how_drawn(search: Mapping[str, Any]) -> str:
    """Return which blocks curves are made of."""
    depths = ", ".join(search.get("depths") or ())
    asked = f"each of the depths asked for ({depths})" if depths else "every depth up to 3/4 of the layers"
    rules = "; one ".join(
        CURVES.get(method, f"chosen by the rule “{method}”") for method in search.get("methods") or ()
    )
    scored = "scored as it is cut" + (", and again after a full heal" if "full" in search.get("rungs", ()) else "")
    return (
        f"Nothing was searched. At {asked} one block a rule was removed, whatever others had shown: one {rules}. Each "
        f"was {scored}; one that two rules name was taken once."
    )


def how_healed(probes: Sequence[Mapping[str, Any]], num_joints: int) -> str:
    """Return what was done to a pruned model before it was scored."""
    cheap = {rung_of(probe) for probe in probes if not is_full(probe)}
    if cheap == {"unhealed"} and not any(map(is_full, probes)) and not num_joints:
        return (
            "No model was trained again: each was scored as it is cut. This is the recipe that a heal would have had."
        )
    told = "Every pruned model was trained again with this recipe before it was scored"
    exceptions = []
    if "unhealed" in cheap:
        exceptions.append("an unhealed look scores the model as it is cut")
    if "short" in cheap:
        exceptions.append("a short heal takes a small part of the steps")
    if exceptions:
        told = "A full heal trains the pruned model again with this recipe before it is scored; "
        told += " and ".join(exceptions) + ", scored on fewer utterances (n in the table of probes)"
    if num_joints:
        told += (
            ". A joint heal trains one model on the speech of all cells of a base, mixed, for as many steps as their "
            "own heals take together"
        )
    return told + "."


def how_decoded(sweep: Mapping[str, Any]) -> list[str]:
    """Return, as paragraphs, how answers were decoded and on which split; none where that is not recorded."""
    scoring = sweep.get("scoring")
    if scoring is None:
        return []
    beams = scoring.get("num_beams")
    told = "" if beams is None else f"Answers were decoded {'greedily' if beams == 1 else f'with {beams} beams'}. "
    if sweep["sampler"] == CURVE:
        return [
            f"{told}Every pruned model was scored on the selection split: a full heal on all of it unless stopped "
            "early, a model as it is cut on its first utterances only; both against the unpruned model on the same "
            "utterances. No pruned model has seen the test split."
        ]
    return [
        f"{told}Blocks are chosen on the selection split, which is the development set of the search; the figures "
        "reported are on the test split, which is always scored whole."
    ]


def how_judged(
    sweep: Mapping[str, Any], probes: Sequence[Mapping[str, Any]], num_joints: int, metrics: Collection[str]
) -> list[str]:
    """Return, as paragraphs, what degradations, intervals, probabilities and verdicts are.

    Args:
        sweep: The records of the sweep.
        probes: Its probes.
        num_joints: How many joint answers it has.
        metrics: Those of its cells.
    """
    drawn = _drawn(sweep)
    over = f"{drawn}, each with all that they say" if drawn == "speakers" else drawn
    tolerance, alpha, sure = percent(sweep["tolerance"]), percent(sweep["alpha"]), percent(1 - sweep["alpha"])
    told = [
        f"Relative degradation is {_degradation(metrics)}. "
        f"The interval beside it is the 95 % interval of a paired bootstrap over {over}: it is of that one healed "
        f"model, and covers the choice of {drawn} only. P(heal alone) is the share of the bootstrap's resamples in "
        f"which the degradation of that model is within {tolerance}."
    ]
    if not (goes_by_evidence(probes) or num_joints) or sweep["sampler"] == CURVE:
        return [
            *told,
            f"A block is feasible when P(heal alone) is at least {sure}, infeasible when it is at most {alpha}, and "
            "undecided between.",
        ]
    told.append(
        "On the selection split the verdict on a block goes by P(all evidence), the probability that its degradation "
        f"is within {tolerance} given {_EVIDENCE.get(sweep['sampler'], 'all that the sampler knows')}. A block is "
        f"feasible when that is at least {sure} and a full heal of the block itself has shown a degradation within the "
        f"tolerance; infeasible when it is at most {alpha}; otherwise undecided: it lies between, or no heal of its "
        "own has shown it. Unhealed looks and short heals have no verdict. On the test split the verdict goes by "
        "P(heal alone) of the model scored there, with the same limits."
    )
    if sweep["sampler"] in SAMPLERS:
        told.append(f"The answer of a cell is its deepest feasible block; without one, {_second_best(sweep)}.")
    if num_joints:
        told.append(
            "A joint block is feasible when the probability that all its cells are within the tolerance at once, given "
            f"the cells' own looks and all joint heals, is at least {sure}, every cell has shown a degradation within "
            "it in a joint heal of that block, and each one's verdict on the test split is feasible. Which block to "
            "heal jointly next is chosen as by the sampler “frontier”, starting from the cells' own looks. "
            "The binding cell is the one least likely to be within the tolerance if a layer more went "
            "(without an answer: at the best block that was healed)."
        )
    return told


def caveats(sweep: Mapping[str, Any], probes: Sequence[Mapping[str, Any]], num_joints: int) -> list[str]:
    """Return what a reader has to keep in mind."""
    if sweep["sampler"] == CURVE:
        return [*_caveats_of_curves(sweep), _spread(sweep, probes)]
    reported = "the table of the joint answer" if num_joints else "the first table"
    kept = [
        f"The search saw the selection split only. The figures of {reported} are on the test split, which was looked "
        "at once, for the chosen block; they can differ from what the search saw, and are the ones to quote."
    ]
    if num_joints:
        kept.append(
            "What each cell can lose by itself was found on the selection split and not looked at again on the test "
            "split: it stands here for comparison."
        )
    kept.append(_spread(sweep, probes))
    if sweep["sampler"] == "frontier" or num_joints:
        kept.append(
            "P(all evidence) is an estimate of a statistical model, which learns from the looks how alike neighbouring "
            "blocks and the cells of a decoder are, and how large the luck of a heal is. It speaks of the block, not "
            "of the one model that was healed."
        )
    kept.append("A block that was not tried may be better: a verdict speaks of the blocks in the tables of heals.")
    return kept


def _caveats_of_curves(sweep: Mapping[str, Any]) -> list[str]:
    """Return what a reader of curves has to keep in mind."""
    kept = [
        "Everything here is on the selection split: curves explore. What can be removed is for max_prune.py to answer, "
        "which scores the block that it chose on the test split, once.",
        "The largest fraction within a tolerance is the deepest of the depths tried whose degradation is within it; a "
        "shallower one may be beyond, and a depth between two may be better or worse.",
        "A sign test takes the depths, or the blocks, as independent, although they share the unpruned model and the "
        "utterances; with fewer than 6 it cannot be sure of anything.",
        "Healing is more training too: where the unpruned model was not trained to its end, a healed one can be "
        "better.",
    ]
    if "random" in ((sweep.get("search") or {}).get("methods") or ()):
        kept.append("The random start is one draw a depth: another seed gives another curve.")
    return kept


def _spread(sweep: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> str:
    """Return what intervals cover and what they do not."""
    spread = (
        "Where a block was healed more than once, the rows of its heals in the table of probes show that luck, and the "
        "heal that did best on the selection split is the one that is scored on the test split."
        if any(probe.get("repeat") for probe in probes)
        else "No block of a cell was healed more than once, so that nothing here shows how large it is."
    )
    few = "they are few, whatever n" if _drawn(sweep) == "speakers" else "n is small"
    return (
        f"Intervals cover the choice of {_drawn(sweep)}, and are wide where {few}. They do not cover the luck of one "
        f"healing run. {spread}"
    )


def probes_note(sweep: Mapping[str, Any], probes: Sequence[Mapping[str, Any]]) -> str:
    """Return how to read the table of probes."""
    note = (
        "One block removed and scored on the selection split each. P(heal alone) is the share of bootstrap resamples "
    )
    note += "in which the degradation of that one model stays within the tolerance"
    if goes_by_evidence(probes):
        evidence = _EVIDENCE.get(sweep["sampler"], "all that the sampler knows")
        note += f"; P(all evidence), by which the verdict goes, is the block's probability given {evidence}"
    if not all(map(is_full, probes)):
        note += ". Unhealed looks and short heals are evidence, and get no verdict"
    if any(map(was_stopped, probes)):
        note += (
            ". A probe whose scoring was stopped early has the figures of the utterances scored by then, which tend to "
            "exaggerate; by which bound it was stopped stands under How it was scored"
        )
    return f"{note}. Why a probe failed stands under Failures."


def _drawn(sweep: Mapping[str, Any]) -> str:
    """Return what the bootstrap draws: utterances, where the records do not say otherwise."""
    return "speakers" if (sweep.get("scoring") or {}).get("resample") == "speaker" else "utterances"


def _degradation(metrics: Collection[str]) -> str:
    """Return what a relative degradation is, for the metrics of a sweep."""
    used = [name for name in METRICS if name in metrics or not metrics]
    rates = " and ".join(metric_name(name) for name in used if METRICS[name].is_error_rate)
    others = " and ".join(metric_name(name) for name in used if not METRICS[name].is_error_rate)
    formulas = (("(pruned − unpruned) / unpruned", rates), ("(unpruned − pruned) / unpruned", others))
    return " and ".join(f"{formula} for {named}" for formula, named in formulas if named)


def _second_best(sweep: Mapping[str, Any]) -> str:
    """Return which block is the answer of a cell that has no feasible one."""
    if sweep["sampler"] == "frontier":
        return (
            "the deepest one that a full heal has shown within the tolerance and whose P(all evidence) is at least "
            f"{percent(0.5)}, as undecided"
        )
    return "the deepest undecided one whose full heals are within the tolerance on average"


def _heals(number: int) -> str:
    return "1 full heal" if number == 1 else f"{number} full heals"
