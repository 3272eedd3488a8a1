"""What tests of real trials share: real speech, real encoder, a random miniature, real healing; nothing of it good."""

import time
from dataclasses import replace

from slamlab.scoring.records import read_records
from slamlab.sweep.cells import Cell, joint_cell
from slamlab.sweep.evaluate import Evaluation
from slamlab.sweep.settings import Request
from slamlab.sweep.store import fingerprint

CELL = Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en")
BASE = Request(kind="base", cell=CELL)
PROBE, FINAL = (Request(kind=kind, cell=CELL, start=4, depth=3) for kind in ("probe", "final"))
GERMAN, LLAMA = (replace(CELL, **changed) for changed in ({"task": "st", "language": "de"}, {"family": "llama"}))
JOINT, JOINT_FINAL = (replace(PROBE, kind=kind, cell=joint_cell(CELL)) for kind in ("joint", "joint_final"))


def finish(steps):
    """Run a trial to its end; return its record and the stages that it went through."""
    stages = []
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value, stages
        assert 0 <= progress.step <= progress.num_steps
        if progress.stage not in stages:
            stages.append(progress.stage)


def run_all(bench, *requests):
    """Run trials one after the other and return their records."""
    return [finish(bench.run(request))[0] for request in requests]


def hypotheses_of(bench, record):
    """Return id to hypothesis on the selection split."""
    return {
        one.id: one.hypothesis for one in read_records(bench.store.root / record["scores"]["selection"]["hypotheses"])
    }


def checkpoint_of(bench, request):
    """Return where the healed model of a request lies."""
    return bench.store.checkpoint_folder(fingerprint(bench._model_facts(request, bench._base)))


def score_again(bench, request, model, split="selection"):
    """Return the score of a model on a split, from a journal of its own."""
    utterances = bench._scored(request.cell, split, request.rung)
    evaluation = Evaluation(request.cell, utterances, bench.store.journal(fingerprint(time.time())), bench.profile)
    list(evaluation.run(model, bench.features(request.cell.encoder), "decode"))
    return evaluation.score(bench.store)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def without_times(record):
    """Return a record without what may differ from run to run."""
    return {name: value for name, value in record.items() if name not in ("wall_seconds", "device_seconds", "speed")}
