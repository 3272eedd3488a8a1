"""What `results.json` promises to those who read it, held against driven sweeps."""

import json
import subprocess
from importlib.metadata import version
from itertools import islice
from numbers import Real

import jiwer
import pytest
import sacrebleu
from small_world import SECONDS, SPEED, World, cell, drive, events, results_of, small_sweep

from slamlab.report.page import render
from slamlab.report.results import SCHEMA_VERSION, read_results, write_results
from slamlab.scoring.records import read_records
from slamlab.scoring.score import degradation
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.results import PACKAGES, collect, commit, versions
from slamlab.sweep.store import Store

EN, DE_EN, LLAMA = cell(), cell("de", "st"), cell(family="llama")
EDGES = {EN: 4, DE_EN: 7, LLAMA: 0}
CELL_KEYS = {"family": str, "scale": str, "encoder": str, "task": str, "language": str}
NUMBER_OR_NULL = (Real, type(None))
COUNTS = {"num_empty_references": int, "num_empty_hypotheses": int, "num_loops": int, "num_capped": int}
SCORE = {"value": Real, "ci95": list, "num_utterances": int, "signature": str, "hypotheses": str, **COUNTS}
COMPARED = {**SCORE, "relative_degradation": NUMBER_OR_NULL, "p_within": Real, "verdict": str}


def _has(record, kinds):
    for name, kind in kinds.items():
        assert isinstance(record[name], kind), f"{name} is {record[name]!r}"
        assert not isinstance(record[name], bool)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    settings = small_sweep(
        tmp_path_factory.mktemp("driven") / "runs", cells=tuple(EDGES), tolerance=0.3, alpha=0.1, seed=5
    )
    campaign = drive(settings, World(settings, EDGES, failures={("probe", EN, 3): 1}))
    return campaign, results_of(campaign)


def test_the_sweep_says_what_it_was(driven):
    campaign, results = driven
    assert results["schema_version"] == SCHEMA_VERSION == 1
    sweep = results["sweep"]
    assert {name: sweep[name] for name in ("name", "profile", "tolerance", "alpha", "seed", "sampler")} == {
        "name": "tiny",
        "profile": "pocket",
        "tolerance": 0.3,
        "alpha": 0.1,
        "seed": 5,
        "sampler": "bisect",
    }
    _has(sweep, {"commit": str, "versions": dict, "command": str, "convention": str, "corpus": dict, "heal": dict})
    assert sweep["corpus"] == {"name": "pocket", "fingerprint": "0" * 64, "problems": []}
    assert sweep["heal"]["mini"]["train"]["num_steps"] == 2
    num_probes = sum(len(ledger.probes) for ledger in campaign.ledgers.values())
    assert sweep["num_trials"] == 3 + num_probes + 2 + 1  # bases, probes, finals, and one attempt that failed
    assert sweep["num_failed"] == 0
    assert sweep["finished"] is True


def test_a_cell_has_everything_that_was_promised(driven):
    _, results = driven
    assert [tuple(one[name] for name in CELL_KEYS) for one in results["cells"]] == [
        tuple(one.as_dict().values()) for one in EDGES
    ]
    for found, depth in zip(results["cells"], EDGES.values(), strict=True):
        _has(found, {**CELL_KEYS, "num_layers": int, "max_depth": int, "max_fraction": Real, "verdict": str})
        _has(found, {"metric": str, "map": str, "num_heals": int, "device_seconds": Real, "wall_seconds": Real})
        assert (found["num_layers"], found["max_depth"], found["max_fraction"]) == (12, depth, depth / 12)
        assert found["verdict"] == ("feasible" if depth else "none")
        assert found["start"] == (11 - depth if depth else None)
        assert found["metric"] == ("bleu" if found["task"] == "st" else "wer")
        for scores in (found, found["selection"], found["test_voices"]):
            _has(scores["baseline"], SCORE)
            assert (scores["pruned"] is None) == (depth == 0)
            if depth:
                _has(scores["pruned"], COMPARED)
        probes = [one for one in results["probes"] if one["cell"] == {name: found[name] for name in CELL_KEYS}]
        assert found["num_heals"] == len(probes)
        seconds = SECONDS["base"] + len(probes) * SECONDS["probe"] + SECONDS["final"] * bool(depth)
        assert found["device_seconds"] == found["wall_seconds"] == seconds
        assert found["num_parameters"] == {"base": 12_000, "pruned": 12_000 - 1000 * depth if depth else None}


def test_the_answer_is_scored_on_sentences_that_the_search_never_saw(driven):
    campaign, results = driven
    for found in results["cells"]:
        on_test, on_selection = found["baseline"]["hypotheses"], found["selection"]["baseline"]["hypotheses"]
        ids = [
            {json.loads(line)["id"] for line in (campaign.store.root / name).read_text().splitlines()}
            for name in (on_test, on_selection)
        ]
        assert not ids[0] & ids[1]
    asr = results["cells"][0]
    assert asr["pruned"]["hypotheses"] != asr["selection"]["pruned"]["hypotheses"]
    assert asr["pruned"]["checkpoint"].startswith("checkpoints/")
    assert (campaign.store.root / asr["pruned"]["checkpoint"]).is_dir()
    assert "checkpoint" not in asr["selection"]["pruned"]


def test_the_model_that_is_handed_back_has_its_speed_and_no_other(driven):
    _, results = driven
    for found, depth in zip(results["cells"], EDGES.values(), strict=True):
        assert (found["pruned"] or {}).get("speed") == (SPEED if depth else None)
        for scores in (found["selection"], found["test_voices"]):
            assert not any("speed" in (scores[who] or {}) for who in ("baseline", "pruned"))
    assert not any("speed" in probe for probe in results["probes"])


def test_a_final_of_before_speed_was_measured_is_reported(make_settings, tmp_path):
    found, _ = _single(make_settings, tmp_path, timed=False)
    assert "speed" not in found["pruned"]
    assert found["verdict"] == "feasible"
    assert "how fast it decodes was not measured" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_probe_has_everything_that_was_promised(driven):
    _, results = driven
    assert len({probe["fingerprint"] for probe in results["probes"]}) == len(results["probes"])
    for probe in results["probes"]:
        _has(probe, {"cell": dict, "start": int, "depth": int, "rung": str, "split": str, "status": str, **COMPARED})
        _has(probe, {"fingerprint": str, "wall_seconds": Real, "device_seconds": Real, "num_parameters": int})
        assert probe["cell"].keys() == CELL_KEYS.keys()
        assert (probe["split"], probe["rung"], probe["status"]) == ("selection", "full", "complete")
        assert probe["verdict"] in ("feasible", "infeasible", "undecided")
        low, high = probe["ci95"]
        assert low <= probe["relative_degradation"] <= high
    tried_twice = [probe for probe in results["probes"] if probe["num_failed_attempts"]]
    assert [(one["depth"], one["reason"]) for one in tried_twice] == [(3, "the probe would not work")]


def _scores(results):
    for probe in results["probes"]:
        yield probe["cell"]["task"], probe
    for found in results["cells"]:
        for scores in (found, found["selection"], found["test_voices"]):
            for who in ("baseline", "pruned"):
                if scores[who]:
                    yield found["task"], scores[who]


def test_every_value_can_be_computed_again_from_its_hypotheses(driven):
    campaign, results = driven
    checked = set()
    for task, score in _scores(results):
        lines = (campaign.store.root / score["hypotheses"]).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        references = [record["reference_normalized"] for record in records]
        hypotheses = [record["hypothesis_normalized"] for record in records]
        if task == "asr":
            value = jiwer.wer(references, hypotheses)
        else:
            value = sacrebleu.corpus_bleu(hypotheses, [references]).score
        assert score["value"] == pytest.approx(value, abs=1e-9)
        assert score["num_utterances"] == len(records)
        checked.add(task)
    assert checked == {"asr", "st"}


def test_a_relative_degradation_is_that_of_the_two_values_and_its_interval_that_of_the_seed(driven):
    campaign, results = driven
    baselines = {tuple(found[name] for name in CELL_KEYS): found["selection"]["baseline"] for found in results["cells"]}
    for probe in results["probes"]:
        base = baselines[tuple(probe["cell"].values())]
        sign = 1 if probe["cell"]["task"] == "asr" else -1
        change = sign * (probe["value"] - base["value"]) / base["value"]
        assert probe["relative_degradation"] == pytest.approx(change)
        records = [read_records(campaign.store.root / one["hypotheses"]) for one in (base, probe)]
        again = degradation(*records, probe["cell"]["language"], probe["cell"]["task"], tolerance=0.3, seed=5)
        assert probe["ci95"] == list(again.ci95)
        assert probe["p_within"] == again.p_within


def test_the_report_takes_it(driven, tmp_path):
    campaign, results = driven
    write_results(results, tmp_path)
    assert read_results(tmp_path) == results
    render(results, campaign.store.root, tmp_path)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "qwen-mini" in page
    assert "not in this store" not in page
    assert (tmp_path / "index.html").stat().st_size > 2000


def test_collecting_twice_gives_the_same(driven):
    campaign, results = driven
    assert results_of(campaign) == results
    assert results_of(Campaign(campaign.settings, campaign.store)) == results


def test_the_corpus_and_what_it_left_out_are_named(driven):
    problems = ["m.csv, line 3: too short"]
    results = collect(driven[0], command="c", corpus_name="recordings", problems=iter(problems))
    assert results["sweep"]["corpus"]["name"] == "recordings"
    assert results["sweep"]["corpus"]["problems"] == problems
    assert results["sweep"]["command"] == "c"


def _single(make_settings, tmp_path, edge=4, **world):
    """Drive one cell and return its results, once the report has taken them."""
    settings = make_settings()
    campaign = drive(settings, World(settings, {EN: edge}, **world))
    results = results_of(campaign)
    write_results(results, tmp_path / "report")
    render(results, settings.store, tmp_path / "report")
    (found,) = results["cells"]
    return found, results


def test_without_a_block_that_may_go_there_is_no_pruned_model(make_settings, tmp_path):
    found, results = _single(make_settings, tmp_path, edge=0)
    assert (found["max_depth"], found["start"], found["max_fraction"], found["verdict"]) == (0, None, 0.0, "none")
    assert found["pruned"] is found["selection"]["pruned"] is found["test_voices"]["pruned"] is None
    assert found["num_heals"] == len(results["probes"]) >= 2


def test_a_test_split_that_disagrees_takes_the_promise_back(make_settings, tmp_path):
    found, _ = _single(make_settings, tmp_path, test_edges={EN: 3})
    assert found["selection"]["pruned"]["verdict"] == "feasible"
    assert found["pruned"]["verdict"] == "infeasible"
    assert found["verdict"] == "undecided"
    assert found["reason"] == "feasible on the selection split, infeasible on the test split"
    assert found["max_depth"] == 4
    assert found["reason"] in (tmp_path / "report" / "index.html").read_text()


def test_a_base_that_failed_is_a_cell_that_failed(make_settings, tmp_path):
    found, results = _single(make_settings, tmp_path, failures={("base", EN, 0): 9})
    assert found["verdict"] == "failed"
    assert found["reason"] == "the base would not work; then: the base would not work"
    assert results["probes"] == []
    answered = ("num_layers", "max_depth", "start", "max_fraction", "metric", "baseline", "pruned", "num_heals")
    assert [found[name] for name in answered] == [None, 0, None, 0, None, None, None, 0]
    assert (results["sweep"]["num_trials"], results["sweep"]["num_failed"]) == (2, 1)
    assert "the base would not work" in (tmp_path / "report" / "index.html").read_text()


def test_a_probe_that_failed_has_a_reason_and_no_value(make_settings, tmp_path):
    found, results = _single(make_settings, tmp_path, failures={("probe", EN, 4): 9})
    (failed,) = [probe for probe in results["probes"] if probe["status"] == "failed"]
    assert (failed["depth"], failed["num_failed_attempts"]) == (4, 2)
    assert failed["reason"] == "the probe would not work; then: the probe would not work"
    assert failed["value"] is None
    assert (found["max_depth"], found["num_heals"]) == (3, len(results["probes"]) - 1)
    assert (found["verdict"], found["reason"]) == ("feasible", "deeper blocks are open, as the probe of depth 4 failed")
    assert results["sweep"]["num_failed"] == 1


def test_where_nothing_but_failures_spoke_against_a_block_it_says_so(make_settings, tmp_path):
    found, _ = _single(make_settings, tmp_path, failures={("probe", EN, 3): 9, ("probe", EN, 1): 9})
    assert (found["max_depth"], found["verdict"], found["pruned"]) == (0, "none", None)
    assert found["reason"] == "deeper blocks are open, as the probe of depth 1 failed"


def test_an_answer_that_was_never_scored_on_test_is_undecided(make_settings, tmp_path):
    found, _ = _single(make_settings, tmp_path, failures={("final", EN, 4): 9})
    assert (found["verdict"], found["max_depth"], found["pruned"]) == ("undecided", 4, None)
    assert found["reason"].startswith("not scored on the test split: the final would not work; then: ")


def test_an_unpruned_model_that_learned_nothing_promises_nothing(make_settings, tmp_path):
    found, _ = _single(make_settings, tmp_path, edge=12, base_rate=0.8)
    assert found["verdict"] == "undecided"
    assert "the unpruned model itself scores WER 0.8" in found["reason"]


def test_a_base_without_an_error_made_worse_has_no_relative_number(make_settings, tmp_path):
    # The report is written too, and takes no infinity.
    _, results = _single(make_settings, tmp_path, base_rate=0.0)
    unbounded = [probe for probe in results["probes"] if probe["relative_degradation"] is None]
    assert {probe["depth"] for probe in unbounded} == {5, 6}
    assert all(probe["verdict"] == "infeasible" for probe in unbounded)


@pytest.mark.parametrize("num_events", [0, 1, 3, 5, 9])
def test_a_sweep_that_was_interrupted_can_be_reported(make_settings, tmp_path, num_events):
    settings = make_settings(cells=(EN, LLAMA))
    campaign = Campaign(settings, Store(settings.store).open(min_free_bytes=0))
    list(islice(events(campaign, World(settings, EDGES), workers=2), num_events))
    results = results_of(campaign)
    assert results["sweep"]["finished"] is False
    write_results(results, tmp_path / "report")
    render(results, settings.store, tmp_path / "report")
    assert all(found["verdict"] in ("failed", "undecided", "none") for found in results["cells"])


def test_versions_are_those_installed():
    found = versions()
    assert found.keys() == set(PACKAGES)
    assert found["jiwer"] == version("jiwer")
    assert "not installed" not in found.values()


def test_the_commit_is_the_checkouts_or_unknown(monkeypatch, tmp_path):
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert commit().removesuffix("-dirty") == head.stdout.strip()
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert commit() == "unknown"
