"""What does a sweep cost besides its trials? Searcher, ledger and Ray, with trials that take no time.

- ray: a small sweep of instant trials by the project's own searcher and ledger, against bare Ray Tune that is given
  the same trials as a grid, in turns: wall time a trial, in which a trial itself only looks its record up.
- resume: from a store full of finished trials to what is to be done next.
- residency: on the pocket profile, from the start of a trial to its first healing step, for the first probe of a worker
  and for its second one on the same base. This part is real.
- scale: a whole sweep without Ray, its trials drawn from a table. What searcher and ledger take a trial, by CPU and by
  the clock, the driver's memory, and how busy workers would be: trials are given durations, and wait for the driver.

A trial is judged by a table, too; what judging a real one takes (texts to interval) is told beside, as it depends on
the utterances alone.

Examples:

    python benchmarks/orchestration.py --quick
    python benchmarks/orchestration.py --only scale,resume --decoders 40 --cells 250 --json scale.json
    python benchmarks/orchestration.py --only ray,residency
"""

from __future__ import annotations

import heapq
import io
import itertools
import json
import math
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist, median
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from rich.console import Console

from slamlab.errors import OptionError, exit_on_user_error
from slamlab.scoring.records import make_records
from slamlab.scoring.score import degradation
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import Cell
from slamlab.sweep.settings import Request, Settings
from slamlab.sweep.store import Store, fingerprint

PARTS = ("ray", "resume", "residency", "scale")
NUM_LAYERS, TOLERANCE = 28, 0.25
NUM_ENCODERS = 5
TEST_SE, HEAL_SD = 0.02, 0.01
"""Errors of a degradation at the tolerance: of a test set of some hundred utterances, and of a heal."""
SHORT = {"base": 0.3, "final": 0.15}
"""What the other trials take, in heals."""
SPREAD = 0.4
"""Of trials' durations, standard deviation of the logarithm."""
NUM_JUDGED = 300
TELL_EVERY = 2000
"""Trials between two lines about a simulated sweep."""


def make_cells(num_decoders: int, num_cells: int) -> tuple[Cell, ...]:
    """Return cells of decoders: 5 encoders, 2 tasks and as many languages as it takes."""
    languages = [f"l{i}" for i in range(-(-num_cells // (2 * NUM_ENCODERS)))]
    encoders = [f"encoder{i}" for i in range(NUM_ENCODERS)]
    found = []
    for decoder in range(num_decoders):
        every = itertools.product(languages, ("asr", "st"), encoders)
        for language, task, encoder in sorted(itertools.islice(every, num_cells), key=lambda one: one[::-1]):
            named = {"family": f"family{decoder}", "scale": "mini", "encoder": encoder}
            found.append(Cell(**named, task=task, language=language))
    return tuple(found)


def make_settings(store: Path, cells: Sequence[Cell], workers: int, sampler: str = "frontier") -> Settings:
    """Return a sweep whose bases are there."""
    base = store / "given"
    base.mkdir(parents=True, exist_ok=True)
    return Settings(
        name="instant",
        profile="pocket",
        cells=tuple(cells),
        corpus="pocket",
        corpus_fingerprint="0" * 64,
        store=store,
        base=str(base),
        heal={},
        num_selection=NUM_JUDGED,
        num_test=NUM_JUDGED,
        workers=workers,
        sampler=sampler,
    )


class Table:
    """The truth about every block of every cell, drawn from seeds: what its layers are worth against what it can bear.

    Args:
        seed: Of everything in it.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def distance(self, cell: Cell) -> np.ndarray:
        """Return the angular distances [L+1, L+1] of a cell: those of its layers' worth, somewhat misleading."""
        angle = np.append(0, (self._worth(cell) * np.exp(0.15 * self._draw(cell).standard_normal(NUM_LAYERS))).cumsum())
        return 1 - np.exp(-np.abs(np.subtract.outer(angle, angle)) / NUM_LAYERS)

    def look(self, request: Request) -> dict[str, Any]:
        """Return what a heal shows, as a sweep judges it."""
        cell, start, depth = request.cell, request.start, request.depth
        worth = self._worth(cell)
        bears = np.exp(0.06 * self._draw(cell, "bears").standard_normal())
        bears *= self._draw(cell.family, "bears").uniform(0.25, 0.45) * NUM_LAYERS * np.median(worth)
        truth = TOLERANCE * (worth[start : start + depth].sum() / bears) ** 2.5
        grown = (1 + truth) / (1 + TOLERANCE)
        test, heal = self._draw(cell, start, depth), self._draw(cell, start, depth, request.repeat)
        shown = float(truth + grown * (TEST_SE * test.standard_normal() + HEAL_SD * heal.standard_normal()))
        se = float(grown * TEST_SE)
        return {
            "value": 0.1 * (1 + shown),
            "relative_degradation": shown,
            "ci95": [shown - 1.96 * se, shown + 1.96 * se],
            "p_within": NormalDist(shown, se).cdf(TOLERANCE),
            "se": se,
        }

    def _worth(self, cell: Cell) -> np.ndarray:
        layer = np.arange(NUM_LAYERS)
        drawn = np.exp(0.25 * self._draw(cell.family).standard_normal(NUM_LAYERS))
        return drawn * (1 + 4 * np.exp(-layer) + 2 * np.exp(layer - NUM_LAYERS + 1.0))

    def _draw(self, *what: object) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(repr(what).encode())])


class World:
    """Answers requests with records, which are in the store then as a worker would have left them.

    Args:
        store: Where records and maps go.
        seed: Of the truth.
    """

    def __init__(self, store: Store, seed: int = 0) -> None:
        self._store, self._table = store, Table(seed)

    def run(self, request: Request) -> dict[str, Any]:
        """Return the record of a trial."""
        facts = json.loads(json.dumps(replace(request, attempt=1).as_dict()))
        score = {"metric": "wer", "value": 0.1, "num_utterances": NUM_JUDGED, "stopped_early": None}
        record: dict[str, Any] = {
            "fingerprint": fingerprint(facts),
            "facts": facts,
            "kind": request.kind,
            "cell": request.cell.as_dict(),
            "num_layers": NUM_LAYERS,
            "scores": {"selection": score, "test": score},
            "wall_seconds": 0.0,
            "device_seconds": 0.0,
        }
        if request.kind == "base":
            content = io.BytesIO()
            np.savez(content, distance=self._table.distance(request.cell))
            with _no_waiting_for_the_disk():
                record["map"] = self._store.put_bytes("maps", ".npz", content.getvalue())
        else:
            record |= {"start": request.start, "depth": request.depth, "rung": request.rung, "repeat": request.repeat}
        if request.is_probe:
            record["told"] = self._table.look(request)
        with _no_waiting_for_the_disk():
            self._store.write_record(record)
        return record


@contextmanager
def _no_waiting_for_the_disk() -> Any:
    """Write what workers would write on machines of their own."""
    sync, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = sync


class InstantCampaign(Campaign):
    """A campaign whose probes tell what they show, where a real one compares texts."""

    def judge(self, cell: Cell, record: Mapping[str, Any], split: str, **_: Any) -> dict[str, Any]:
        """Return what the table says."""
        return dict(record["told"])


@dataclass
class Driven:
    """What came of driving a campaign.

    Attributes:
        kinds: Trials by kind.
        wall_s, cpu_s: What searcher and ledger took for each trial: asked for, begun, noted.
        runs: By the simulated clock, when each trial began and ended.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    runs: list[tuple[float, float]] = field(default_factory=list)

    def busy(self, workers: int, until_s: float) -> float:
        """Return the share of workers' time until then that went into trials."""
        return sum(min(end, until_s) - begin for begin, end in self.runs if begin < until_s) / (workers * until_s)


def drive(
    campaign: Campaign,
    world: World,
    workers: int,
    duration_s: Callable[[Request], float],
    most: int = 10**9,
    tell: Callable[[Driven], None] = lambda found: None,
) -> Driven:
    """Run a campaign on simulated workers: events in the order of a clock on which the driver's own time counts.

    Args:
        campaign: The campaign.
        world: Does the trials.
        workers: Trials at a time.
        duration_s: What a trial takes.
        most: Trials at most.
        tell: Called now and then with what there is so far.
    """
    found, order, now_s = Driven(), itertools.count(), 0.0
    running: list[tuple[float, int, Request]] = []  # a heap by when they end
    spent = [0.0, 0.0]

    def timed(work: Callable[[], Any]) -> Any:
        nonlocal now_s
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        result = work()
        took_s = time.perf_counter() - wall_s
        now_s += took_s
        spent[0] += took_s
        spent[1] += time.process_time() - cpu_s
        return result

    while True:
        while len(running) < workers and found.kinds.total() < most:
            request = timed(campaign.next)
            if request is None:
                break
            timed(lambda request=request: campaign.begin(request))
            ends_s = now_s + duration_s(request)
            found.runs.append((now_s, ends_s))
            found.kinds[request.kind] += 1
            heapq.heappush(running, (ends_s, next(order), request))
        if not running:
            return found
        ends_s, _, request = heapq.heappop(running)
        now_s = max(now_s, ends_s)
        record = world.run(request)
        timed(lambda request=request, record=record: campaign.complete(request, record))
        found.wall_s.append(spent[0])
        found.cpu_s.append(spent[1])
        spent[:] = 0.0, 0.0
        if len(found.wall_s) % TELL_EVERY == 0:
            tell(found)


def bench_scale(settings: Settings, heal_s: float, most: int, seed: int) -> dict[str, Any]:
    """Drive a sweep of instant trials to its end, with a line to the standard error now and then."""
    store = Store(settings.store).open(min_free_bytes=0)
    draw = np.random.default_rng(seed)

    def duration_s(request: Request) -> float:
        return heal_s * SHORT.get(request.kind, 1.0) * float(np.exp(SPREAD * draw.standard_normal() - SPREAD**2 / 2))

    opened_s, campaign = _timed(lambda: InstantCampaign(settings, store))

    def tell(found: Driven) -> None:
        recent_s = float(np.mean(found.wall_s[-TELL_EVERY:]))
        print(f"{len(found.wall_s):,} trials, {1e3 * recent_s:.1f} ms each", file=sys.stderr, flush=True)

    found = drive(campaign, World(store, seed), settings.workers, duration_s, most, tell)
    num = len(found.wall_s)
    # One driver serves all: whatever it takes for a trial, workers wait for where trials are short.
    enough_s = 0.9 * settings.workers * float(np.mean(found.wall_s))
    tenth = max(1, num // 10)
    return {
        "what": f"{len(settings.cells)} cells of {len(campaign.pools)} decoders, trials that take no time, no Ray",
        "sampler": settings.sampler,
        "num_trials": num,
        "kinds": dict(found.kinds),
        "finished": campaign.finished,
        "open_s": opened_s,
        "ms_a_trial": 1e3 * float(np.mean(found.wall_s)),
        "ms_a_trial_p99": 1e3 * float(np.quantile(found.wall_s, 0.99)),
        "cpu_ms_a_trial": 1e3 * float(np.mean(found.cpu_s)),
        "cpu_ms_by_tenth": [round(1e3 * float(np.mean(found.cpu_s[i : i + tenth])), 1) for i in range(0, num, tenth)],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "workers": settings.workers,
        "heal_s": heal_s,
        "busy": found.busy(settings.workers, max(end for _, end in found.runs)),
        "busy_until_the_last_trial_began": found.busy(settings.workers, max(begin for begin, _ in found.runs)),
        "mean_trial_s_for_90_percent_busy": enough_s,
        "judging_ms": 1e3 * _judging_s(),
        "num_judged": NUM_JUDGED,
    }


def bench_resume(settings: Settings) -> dict[str, Any]:
    """Time a new driver on a store: until its ledger is read, and until it knows what comes next."""
    store = Store(settings.store)
    opened_s, campaign = _timed(lambda: InstantCampaign(settings, store))
    asked_s, request = _timed(campaign.next)
    return {
        "what": f"a new driver on {campaign.num_settled} finished trials of {len(settings.cells)} cells",
        "num_trials": campaign.num_settled,
        "open_s": opened_s,
        "next_s": asked_s,
        "total_s": opened_s + asked_s,
        "next": "nothing is left" if request is None else request.kind,
    }


def _judging_s() -> float:
    """Return what judging a probe takes: both models' texts on 300 utterances, to the interval."""
    draw = np.random.default_rng(0)
    words = [f"word{i}" for i in range(300)]
    texts = [" ".join(draw.choice(words, draw.integers(4, 20))) for _ in range(NUM_JUDGED)]
    ids = [f"{i:04d}" for i in range(NUM_JUDGED)]

    def answers(rate: float) -> Any:
        said = [" ".join(w if draw.random() > rate else "wrong" for w in text.split()) for text in texts]
        return make_records(ids, texts, said, "en", "asr").records

    base, pruned = answers(0.08), answers(0.1)
    return median(_timed(lambda: degradation(base, pruned, "en", "asr", tolerance=TOLERANCE))[0] for _ in range(5))


def bench_ray(folder: Path, num_cells: int, repeats: int) -> dict[str, Any]:
    """Compare a sweep of instant trials with bare Ray Tune that is given the same ones, in turns."""
    from slamlab.sweep.cluster import run
    from slamlab.sweep.cluster.start import start_ray
    from slamlab.sweep.progress import Watcher

    start_ray()
    from ray import tune

    class Instant(tune.Trainable):
        """A trial that looks its record up, and is over."""

        def setup(  # type: ignore[override]
            self, config: dict[str, Any], settings: Settings, requests: Sequence[Request] = ()
        ) -> None:
            """Begin, as an actor."""
            self._world, self._requests = World(Store(settings.store).open(min_free_bytes=0)), requests
            self.reset_config(config)

        def step(self) -> dict[str, Any]:
            """Keep and tell the record."""
            return {"done": True, "outcome": run.Outcome(record=self._world.run(self._request))}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            """Begin another one."""
            number = new_config.get("number")
            self._request = Request.from_dict(new_config["request"]) if number is None else self._requests[number]
            return True

    def ours(settings: Settings, requests: Sequence[Request]) -> None:
        campaign = InstantCampaign(settings, Store(settings.store))
        with (
            Path(os.devnull).open("w") as nowhere,
            patch.object(run, "TrialRunner", Instant),
            Watcher(Console(file=nowhere), campaign, 1.0, live=False) as watcher,
        ):
            run.run(campaign, watcher)
        if not campaign.finished:
            raise RuntimeError("the sweep stopped before its end")

    def bare(settings: Settings, requests: Sequence[Request]) -> None:
        trial = tune.with_parameters(Instant, settings=settings, requests=requests)
        with tempfile.TemporaryDirectory() as scratch, patch.dict(os.environ):  # where a sweep has Tune's files, too
            os.environ.pop("TUNE_GLOBAL_CHECKPOINT_S")  # bare is as it comes
            tune.Tuner(
                tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 1}])),
                param_space={"number": tune.grid_search(list(range(len(requests))))},
                tune_config=tune.TuneConfig(max_concurrent_trials=2, reuse_actors=True),
                run_config=tune.RunConfig(
                    name="bare",
                    storage_path=scratch,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                ),
            ).fit()

    took: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    requests: list[Request] = []
    for number in range(-1, repeats):  # the first of each warms up, and tells the trials that there are
        turns = (("ours", ours), ("bare", bare))
        for name, way in turns if number % 2 else turns[::-1]:
            settings = make_settings(folder / f"{name}-{number}", make_cells(1, num_cells), 2)
            store = Store(settings.store).open(min_free_bytes=0)
            whole_s, _ = _timed(lambda way=way, settings=settings, known=requests: way(settings, known))
            ended = sorted(path.stat().st_mtime for path in (store.root / "trials").glob("*.json"))
            requests = requests or [Request.from_dict(record["facts"]) for record in store.records()]
            if len(ended) != len(requests):
                raise RuntimeError(f"{name} had {len(ended)} trials instead of {len(requests)}")
            if number >= 0:
                took[name].append((whole_s / len(ended), (ended[-1] - ended[0]) / (len(ended) - 1)))
    found: dict[str, Any] = {
        "what": "wall time an instant trial, 2 at a time: a sweep against bare Ray Tune with the same ones, in turns; "
        "steady: from the first trial's end to the last's",
        "num_trials": len(requests),
        "repeats": repeats,
    }
    for i, part in enumerate(("", "steady_")):
        mine, bares = ([one[i] for one in took[name]] for name in ("ours", "bare"))
        ratios = [one / other for one, other in zip(mine, bares, strict=True)]
        found |= {
            f"{part}ours_ms": 1e3 * median(mine),
            f"{part}bare_ms": 1e3 * median(bares),
            f"{part}ratio": median(ratios),
            f"{part}ratios": ratios,
        }
    return found


def _time_probes(store: Path) -> list[float]:
    """Return the times [2] from the start of a probe to its first healing step, in a new process."""
    from slamlab.sweep.trial import Bench
    from slamlab.zoo.corpora import open_corpus

    began_s = _PROCESS_BEGAN_S
    corpus = open_corpus("pocket", store / "cache", seed=0)
    settings = Settings(
        name="residency",
        profile="pocket",
        cells=(Cell(family="qwen", scale="mini", encoder="whisper-base", task="asr", language="en"),),
        corpus="pocket",
        corpus_fingerprint=corpus.fingerprint,
        store=store,
        heal={"num_steps": 2},
        num_selection=20,
        num_test=20,
    )
    bench, took_s = Bench(settings), []
    for start in (4, 5):
        for progress in bench.run(Request(kind="probe", cell=settings.cells[0], start=start, depth=3)):
            if progress.stage == "heal":
                took_s.append(time.monotonic() - began_s)
                break
        began_s = time.monotonic()
    return took_s


_PROCESS_BEGAN_S = time.monotonic()


def bench_residency(folder: Path, cache: Path, repeats: int) -> dict[str, Any]:
    """Time the first and the second probe of new workers; speech and frames are in the cache before."""
    found = []
    for number in range(-1, repeats):  # the first fills the cache
        store = Store(folder / f"residency-{number}").open(min_free_bytes=0)
        cache.mkdir(parents=True, exist_ok=True)
        store.cache.symlink_to(cache.absolute())
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            found.append(process.submit(_time_probes, store.root).result())
    first_s, second_s = zip(*found[1:], strict=True)
    return {
        "what": "from the start of a probe to its first healing step, a worker's first and its second on the same base",
        "repeats": repeats,
        "first_s": list(first_s),
        "second_s": list(second_s),
        "ratio": median(first_s) / median(second_s),
    }


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began_s = time.perf_counter()
    result = work()
    return time.perf_counter() - began_s, result


def main(
    only: Annotated[str, typer.Option(help=f"Parts to run, with commas: {', '.join(PARTS)}.")] = ",".join(PARTS),
    decoders: Annotated[int, typer.Option(min=1, help="Decoders of the simulated sweep.")] = 40,
    cells: Annotated[int, typer.Option(min=1, help="Cells of each.")] = 250,
    most: Annotated[int | None, typer.Option("--trials", help="Trials at most; default: to the end.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Simulated workers.")] = 64,
    heal_s: Annotated[float, typer.Option(help="Mean simulated time of a heal, in s.")] = 1800.0,
    sampler: Annotated[
        str, typer.Option(help="Strategy of the simulated sweep: frontier, where cells learn from each other, or any.")
    ] = "frontier",
    repeats: Annotated[int, typer.Option(min=1, help="Times that ray and residency are measured, in turns.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="2 decoders of 6 cells, each part once.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of truth, noise and durations.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Where temporary stores go; a disk's own time counts.", show_default="temporary")
    ] = None,
    store: Annotated[Path, typer.Option(help="Store whose speech and models residency uses, or makes.")] = Path("runs"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure what a sweep costs besides its trials."""
    with exit_on_user_error():
        parts = [part.strip() for part in only.split(",") if part.strip()]
        if unknown := [part for part in parts if part not in PARTS]:
            raise OptionError(f"a part is one of {', '.join(PARTS)}", unknown[0], "choose among them")
        if not (math.isfinite(heal_s) and heal_s > 0):
            raise OptionError("a heal takes more than 0 s", heal_s, "give seconds, such as 1800")
        if quick:
            decoders, cells, repeats = 2, 6, 1
        console = Console(soft_wrap=True)
        found: dict[str, Any] = {
            "seed": seed,
            "versions": {name: version(name) for name in ("ray", "optuna", "SQLAlchemy", "numpy", "scipy")},
            "python": platform.python_version(),
            "num_cores": os.cpu_count(),
        }
        console.print(found, highlight=False)
        place = Path(tempfile.mkdtemp(dir=folder, prefix="orchestration-"))
        try:
            settings = make_settings(place / "scale", make_cells(decoders, cells), workers, sampler)
            if "scale" in parts or "resume" in parts:
                found["scale"] = bench_scale(settings, heal_s, most or 10**9, seed)
                _show(console, "scale", found["scale"])
            if "resume" in parts:
                found["resume"] = bench_resume(settings)
                _show(console, "resume", found["resume"])
            if "residency" in parts:
                found["residency"] = bench_residency(place, store / "cache", repeats)
                _show(console, "residency", found["residency"])
            if "ray" in parts:
                found["ray"] = bench_ray(place, 4 if quick else 60, repeats)
                _show(console, "ray", found["ray"])
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if json_file is not None:
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _show(console: Console, part: str, numbers: Mapping[str, Any]) -> None:
    console.print(f"[bold]{part}[/bold]: {numbers['what']}", highlight=False)
    for name, value in numbers.items():
        if name != "what":
            console.print(
                f"  {name:<34}{value:.4g}" if isinstance(value, float) else f"  {name:<34}{value}", markup=False
            )


if __name__ == "__main__":
    typer.run(main)
