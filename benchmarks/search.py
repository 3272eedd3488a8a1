"""How good is a search? Run strategies on a world whose truth is known, and count heals, hits and false accepts.

A strategy heals blocks of cells (draws from the world, no GPU) and answers each cell with the deepest block that it
holds to be harmless. By default the world is a small one of the project's own (benchmarks/tabulated.py, 12 cells).
`--simulator PATH` takes any Python file with the same `World`, `CONDITIONS` and `run_campaign`.

Examples:

    python benchmarks/search.py
    python benchmarks/search.py --simulator PATH --conditions standard --seeds 0,1,2,3 --json results.json
    python benchmarks/search.py --strategies bisect,tpe,gp --max-heals 32
    python benchmarks/search.py --strategies frontier --workers 8 --joint
    python benchmarks/search.py --strategies frontier --suggestions
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import numpy as np
import optuna
import typer
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binomtest

from slamlab.errors import OptionError, exit_on_user_error
from slamlab.search.evidence import RUNGS, Recommendation, SearchSpace
from slamlab.search.frontier import Pool
from slamlab.search.joint import JointSampler
from slamlab.search.sampler import BlockSampler, Names
from slamlab.search.strategies import SAMPLERS, SamplerOptions, build_sampler

ALPHA, PRICE = 0.12, 0.19
POINT = 0.5
NAMES = Names(
    depth="n", start="start", rung="fidelity", rungs={rung: i for i, rung in enumerate(RUNGS, 1)}, degradation="delta"
)
OPTIONS = SamplerOptions(alpha=ALPHA, price=PRICE, names=NAMES)
JOINT_REPEATS = 1000
"""Joint heals draw as repeats of their members' own heals, numbered from here on: none shares its luck with those."""
NUM_TRIALS, NUM_TIMED, NUM_LAYERS = (10, 100, 1000, 5000), 20, 32
"""Of the studies whose suggestions are timed: how many trials they hold, how many suggestions, of what decoder."""
TABULATED = Path(__file__).with_name("tabulated.py")


class Query(NamedTuple):
    """A block to look at, on fidelity 1 (unhealed), 2 (short) or 3 (full)."""

    start: int
    depth: int
    fid: int


class CellSearch:
    """A strategy at work on a cell, as the drivers of simulators want it.

    Args:
        view: What may be known of the cell.
        sampler: The strategy.
        pool: Where the cells of its decoder are shared.
    """

    def __init__(self, view: Any, sampler: BlockSampler, pool: Pool) -> None:
        self._threshold, self.sampler = view.threshold, sampler
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self._running: dict[Query, optuna.Trial] = {}
        self.done = False
        pool.add(sampler.space, self.study)

    def ask(self, num_free: int) -> list[Query]:
        """Return the block to look at now, if there is one and none is being looked at."""
        if self._running or num_free < 1:
            return []
        if not self.sampler.ready(self.study):
            self.done = True
            return []
        trial = self.study.ask(fixed_distributions=self.sampler.distributions)
        query = Query(*self.sampler.block_of(trial.params), trial.params[NAMES.rung])
        self._running[query] = trial
        return [query]

    def tell(self, result: Any) -> None:
        """Take up what a look gave."""
        trial = self._running.pop(Query(*result.query))
        if not result.ok:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(NAMES.degradation, result.delta)
        trial.set_user_attr(NAMES.se, result.se)
        trial.set_constraint("degradation", result.delta - self._threshold)
        self.study.tell(trial, result.query[1])

    def answer(self) -> tuple[int, int] | None:
        """Return (start, depth) of the deepest block that is held to be harmless."""
        return _answer(self.sampler.recommend(self.study))


class CellSampler(BaseSampler):
    """A strategy as a sampler for one cell's study, whose recommendation is the bare (start, depth), or None."""

    def __init__(self, sampler: BlockSampler) -> None:
        self._sampler = sampler
        self.ready, self.should_stop = sampler.ready, sampler.should_stop

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the strategy's space."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the strategy's suggestion."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Refuse, as the strategy does."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def recommend(self, study: Study) -> tuple[int, int] | None:
        """Return (start, depth) of the deepest block that is held to be harmless."""
        return _answer(self._sampler.recommend(study))


def make_strategy(view: Any, shared: dict, strategy: str = "frontier", options: SamplerOptions = OPTIONS) -> CellSearch:
    """Return a strategy for a cell; the cells of a decoder learn from each other through `shared`."""
    pool = shared.setdefault(("pool", view.backbone), Pool())
    return CellSearch(view, build_sampler(strategy, space_of(view), replace(options, pool=pool)), pool)


def make_sampler(view: Any, strategy: str = "frontier", options: SamplerOptions = OPTIONS) -> CellSampler:
    """Return a strategy for a cell alone, with the parameters `n`, `start` and `fidelity`."""
    return CellSampler(build_sampler(strategy, space_of(view), options))


def search_jointly(
    world: Any, cells: Sequence[int], searches: Mapping[int, CellSearch], alpha: float
) -> dict[str, Any]:
    """Search for the deepest block that cells of one decoder can lose together, after their own searches.

    A joint heal shows each member what a heal of its own would, and fails where one of these does.

    Returns:
        `n_star`, `n`, `exact`, `within1` and `fa` as a cell's score; `f3`, the joint heals, one counted a member.
    """
    pool = Pool()
    for cell in cells:
        pool.add(searches[cell].sampler.space, searches[cell].study)
    sampler = JointSampler(pool, alpha=alpha, names=NAMES)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    healed: Counter[Query] = Counter()
    while not sampler.should_stop(study):
        trial = study.ask(fixed_distributions=sampler.distributions)
        query = Query(*sampler.block_of(trial.params), RUNGS.index("full") + 1)
        results = [world.evaluate(cell, query, JOINT_REPEATS + healed[query]) for cell in cells]
        healed[query] += 1
        if not all(result.ok for result in results):
            study.tell(trial, state=TrialState.FAIL)
            continue
        trial.set_user_attr(NAMES.degradation, [result.delta for result in results])
        trial.set_user_attr(NAMES.se, [result.se for result in results])
        study.tell(trial, query.depth)
    view = world.views[cells[0]]
    start, depth = _answer(sampler.recommend(study)) or (0, 0)
    n_star = min(int(world.joint_n[view.backbone]), view.n_cap)
    harmful = depth > 0 and bool(world.joint_delta[view.backbone][start, depth] > view.threshold)
    return {
        "n_star": n_star,
        "n": depth,
        "exact": depth == n_star and not harmful,
        "within1": abs(depth - n_star) <= 1,
        "fa": harmful,
        "f3": healed.total() * len(cells),
    }


def space_of(view: Any) -> SearchSpace:
    """Return the blocks of a simulator's cell."""
    distance = np.full((view.L + 1, view.L + 1), np.nan)
    for start in range(view.L):
        distance[start, start + 1 :] = view.f0[start, 1 : view.L - start + 1]
    return SearchSpace(
        num_layers=view.L,
        distance=distance,
        tolerance=view.threshold,
        max_depth=view.n_cap,
        factors={name: value for name, value in view.attrs.items() if name not in ("family", "scale")},
    )


def _answer(best: Recommendation) -> tuple[int, int] | None:
    return (best.start, best.depth) if best.verdict == "feasible" else None


class Job(NamedTuple):
    """A campaign to run: all cells of one world.

    A tuple, not a dataclass, so that the file can be loaded by its path without a place among Python's modules.

    Attributes:
        joint_alpha: Error that the joint searches accept which follow; None for no joint search.
    """

    simulator: Path
    condition: str
    seed: int
    strategy: str
    workers: int
    options: SamplerOptions
    joint_alpha: float | None = None

    def run(self) -> dict[str, Any]:
        """Return what came of it, summed over cells; and over decoders, of the search for what their cells share.

        Raises:
            OptionError: A joint search in a world that does not know its answer.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        world = _world(self.simulator, self.condition, self.seed)
        known = all(hasattr(world, needed) for needed in ("backbones", "joint_n", "joint_delta"))
        if self.joint_alpha is not None and not known:
            raise OptionError(
                "a world of joint searches has backbones, joint_n and joint_delta", self.simulator, "leave --joint out"
            )
        searches: dict[int, CellSearch] = {}

        def factory(view: Any, shared: dict) -> CellSearch:
            searches[view.cid] = make_strategy(view, shared, self.strategy, self.options)
            return searches[view.cid]

        outcome = load_simulator(self.simulator).run_campaign(world, factory, self.workers)
        found = {"num_cells": len(outcome.rows), "makespan": outcome.makespan, **_sums(outcome.rows)}
        if self.joint_alpha is not None:
            rows = [search_jointly(world, cells, searches, self.joint_alpha) for cells in world.backbones]
            found["joint"] = {"num_decoders": len(rows), **_sums(rows)}
        return found


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: sum(row[name] for row in rows) for name in ("f3", "exact", "within1", "fa")}


@lru_cache
def load_simulator(path: Path) -> ModuleType:
    """Import a simulator from its file.

    Raises:
        OptionError: No such file, or one that lacks something.
    """
    if not path.is_file():
        raise OptionError("a simulator is a Python file", path, "give its path")
    name = f"simulator_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    for needed in ("World", "CONDITIONS", "run_campaign"):
        if not hasattr(module, needed):
            raise OptionError(
                "a simulator has World, CONDITIONS and run_campaign", f"{path} without {needed}", "add it"
            )
    return module


@lru_cache(maxsize=4)
def _world(simulator: Path, condition: str, seed: int) -> Any:
    return load_simulator(simulator).World(condition, seed)


def measure(jobs: Sequence[Job], num_processes: int, console: Console) -> list[dict[str, Any]]:
    """Run campaigns in parallel; return a result each, in the order of the jobs."""
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads that show the progress, and BLAS's
    with ProcessPoolExecutor(min(num_processes, len(jobs)), mp_context=spawn) as processes:
        futures = [processes.submit(job.run) for job in jobs]
        for _ in track(as_completed(futures), "Campaigns", total=len(jobs), console=console, transient=True):
            pass
        return [future.result() for future in futures]


def summarise(jobs: Sequence[Job], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each (condition, strategy), over seeds; accuracy from the first number of workers asked for."""
    rows = []
    for condition, strategy in dict.fromkeys((job.condition, job.strategy) for job in jobs):
        ran = [
            (job, result)
            for job, result in zip(jobs, results, strict=True)
            if (job.condition, job.strategy) == (condition, strategy)
        ]
        first = ran[0][0]
        counted = [result for job, result in ran if job.workers == first.workers]
        n = sum(result["num_cells"] for result in counted)
        hits = {name: sum(result[name] for result in counted) for name in ("exact", "within1", "fa")}
        makespans = {
            str(workers): float(np.mean([result["makespan"] for job, result in ran if job.workers == workers]))
            for workers in dict.fromkeys(job.workers for job, _ in ran)
        }
        rows.append(
            {
                "condition": condition,
                "strategy": strategy,
                "alpha": first.options.alpha,
                "seeds": [job.seed for job, _ in ran if job.workers == first.workers],
                "num_cells": n,
                "workers": first.workers,
                "heals": sum(result["f3"] for result in counted) / n,
                **{name: count / n for name, count in hits.items()},
                **{f"{name}_ci95": _interval(hits[name], n) for name in ("exact", "fa")},
                "makespan": makespans,
            }
        )
        if first.joint_alpha is not None:
            rows[-1]["joint"] = _summarise_joint([result["joint"] for result in counted])
    return rows


def _summarise_joint(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what joint searches came to, over decoders; heals beyond those of the cells, one counted a member."""
    names = ("num_decoders", "f3", "exact", "within1", "fa")
    n, heals, *hits = (sum(result[name] for result in results) for name in names)
    return {
        "num_decoders": n,
        "heals": heals / n,
        **{name: count / n for name, count in zip(names[2:], hits, strict=True)},
        **{f"{name}_ci95": _interval(count, n) for name, count in zip(names[2:], hits, strict=True)},
    }


def _interval(count: int, n: int) -> list[float]:
    """Return the exact binomial 95 % interval of a share (Clopper and Pearson 1934)."""
    found = binomtest(count, n).proportion_ci(method="exact")
    return [float(found.low), float(found.high)]


def show(rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table for the terminal."""
    first = rows[0]
    title = f"{first['num_cells']} cells a row, {first['workers']} workers"
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    times = f"time at {'/'.join(first['makespan'])}"
    for heading in ("condition", "strategy", "heals", "exact %", "near %", "false %", times):
        table.add_column(heading, justify="left" if heading in ("condition", "strategy") else "right", overflow="fold")
    for row in rows:
        table.add_row(
            row["condition"],
            row["strategy"],
            f"{row['heals']:.2f}",
            _percent(row["exact"], row["exact_ci95"], 0),
            f"{100 * row['within1']:.0f}",
            _percent(row["fa"], row["fa_ci95"], 1),
            "/".join(f"{makespan:.0f}" for makespan in row["makespan"].values()),
        )
    alphas = {row["strategy"]: row["alpha"] for row in rows}
    table.caption = (
        "Heals: full ones, a cell. Exact, near: answers at the deepest harmless depth, and at most a layer from it. "
        "False: answers that do harm. In brackets: binomial 95 % intervals, as if cells were independent. Time: of a "
        f"campaign, in heals, by workers, mean over seeds {', '.join(map(str, first['seeds']))}. Alpha: "
        f"{', '.join(f'{strategy} {alpha:g}' for strategy, alpha in alphas.items())}; {POINT} is the published rule, "
        "the point estimate."
    )
    return table


def show_joint(rows: Sequence[dict[str, Any]]) -> Table:
    """Return what the joint searches of rows came to as a table for the terminal."""
    title = f"Joint: {rows[0]['joint']['num_decoders']} decoders a row"
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("condition", "strategy", "heals", "exact %", "near %", "false %"):
        table.add_column(heading, justify="left" if heading in ("condition", "strategy") else "right", overflow="fold")
    for row in rows:
        found = row["joint"]
        table.add_row(
            row["condition"],
            row["strategy"],
            f"{found['heals']:.1f}",
            _percent(found["exact"], found["exact_ci95"], 0),
            f"{100 * found['within1']:.0f}",
            _percent(found["fa"], found["fa_ci95"], 1),
        )
    table.caption = (
        "The deepest block that all cells of a decoder can lose together, searched after their own, with their looks. "
        "Heals: beyond those of the cells, a decoder; a joint heal counts once a member."
    )
    return table


def time_suggestions(strategy: str, num_layers: int = NUM_LAYERS) -> dict[int, float]:
    """Return the mean time in ms that a suggestion takes, by how many trials the study holds.

    Each is asked of a study in memory that holds one more trial than when it was asked last. Trials are at blocks and
    rungs by chance, or where the strategy wants one, of a cell that bears about a third of its layers.
    """
    rng = np.random.default_rng(0)
    ends = np.append(0, rng.uniform(0.01, 0.03, num_layers).cumsum())
    space = SearchSpace(
        num_layers=num_layers,
        distance=np.abs(np.subtract.outer(ends, ends)),
        tolerance=0.25,
        max_depth=int(0.7 * num_layers),
    )
    sampler = build_sampler(strategy, space, replace(OPTIONS, rungs=RUNGS, max_heals=2 * max(NUM_TRIALS)))
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def shown(depth: int) -> dict[str, float]:
        harm = 0.3 * np.exp(0.4 * (depth - num_layers / 3)) - 0.05
        return {NAMES.degradation: float(harm + 0.03 * (1 + harm) * rng.standard_normal()), NAMES.se: 0.02 * (1 + harm)}

    def add() -> None:
        start, depth = space.blocks[rng.integers(len(space.blocks))]
        params = {NAMES.depth: depth, NAMES.start: start, NAMES.rung: int(rng.integers(len(RUNGS))) + 1}
        study.add_trial(
            create_trial(
                params=params, distributions=sampler.distributions, value=float(depth), user_attrs=shown(depth)
            )
        )

    times = {}
    for num_trials in NUM_TRIALS:
        for _ in range(num_trials - len(study.get_trials(deepcopy=False))):
            add()
        sampler.ready(study)  # reads what is there
        took = 0.0
        for _ in range(NUM_TIMED):
            add()
            begun = time.perf_counter()
            trial = study.ask(fixed_distributions=sampler.distributions) if sampler.ready(study) else None
            took += time.perf_counter() - begun
            if trial is not None:
                for name, value in shown(trial.params[NAMES.depth]).items():
                    trial.set_user_attr(name, value)
                study.tell(trial, trial.params[NAMES.depth])
        times[num_trials] = 1e3 * took / NUM_TIMED
    return times


def show_times(times: Mapping[str, Mapping[int, float]]) -> Table:
    """Return the times of suggestions by strategy as a table for the terminal."""
    table = Table(
        title="Time of a suggestion, ms (times that at the fewest trials)", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("strategy")
    for num_trials in NUM_TRIALS:
        table.add_column(f"{num_trials:,} trials", justify="right")
    for strategy, by_count in times.items():
        first = by_count[NUM_TRIALS[0]]
        table.add_row(strategy, *(f"{took:.1f} ({took / first:.1f}x)" for took in by_count.values()))
    return table


def _percent(share: float, interval: Sequence[float], digits: int) -> str:
    return f"{100 * share:.{digits}f} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})"


app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    simulator: Annotated[
        Path, typer.Option(help="Python file of the world to search.", show_default="the project's own")
    ] = TABULATED,
    conditions: Annotated[
        str, typer.Option(help="Conditions of the simulator, with commas; default: all it has.")
    ] = "",
    strategies: Annotated[str, typer.Option(help=f"Of {', '.join(SAMPLERS)}; with commas.")] = "frontier,paper,bisect",
    everything: Annotated[
        bool, typer.Option("--all", help="Every strategy; grid heals every block, gp is slow.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Seeds of the worlds, with commas.")] = "0,1",
    workers: Annotated[
        str, typer.Option(help="Heals at a time, with commas; accuracy is that of the first.")
    ] = "8,1,64",
    alpha: Annotated[
        float, typer.Option(help="Frontier accepts a block that is harmless with probability 1 - alpha.")
    ] = ALPHA,
    usual_alpha: Annotated[float, typer.Option(help="The same for the others; 0.5 is the point estimate.")] = POINT,
    price: Annotated[float, typer.Option(help="Layers that a heal must promise for frontier to go on.")] = PRICE,
    max_heals: Annotated[
        int | None, typer.Option(help="Most heals of a cell, for frontier, random, tpe and gp; default: their own.")
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Then search for what all cells of a decoder can lose together.")
    ] = False,
    suggestions: Annotated[
        bool, typer.Option("--suggestions", help="Instead, time suggestions in studies of up to 5,000 trials.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Campaigns at a time; default: one a core.")] = os.cpu_count() or 1,
    write: Annotated[Path | None, typer.Option("--json", help="File to write the numbers to.")] = None,
) -> None:
    """Parse, run, show."""
    console = Console()
    for library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # for the processes: one core each
        os.environ.setdefault(library, "1")
    with exit_on_user_error():
        chosen = _chosen(",".join(SAMPLERS) if everything else strategies, list(SAMPLERS))
        if suggestions:
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            console.print(show_times({strategy: time_suggestions(strategy) for strategy in chosen}))
            return
        known = list(load_simulator(simulator).CONDITIONS)
        asked = [
            Job(
                simulator=simulator.resolve(),
                condition=condition,
                seed=seed,
                strategy=strategy,
                workers=num_workers,
                options=replace(
                    OPTIONS, alpha=alpha if strategy == "frontier" else usual_alpha, price=price, max_heals=max_heals
                ),
                joint_alpha=alpha if joint else None,
            )
            for condition in _chosen(conditions or ",".join(known), known)
            for strategy in chosen
            for num_workers in _numbers(workers, 1)
            for seed in _numbers(seeds, 0)
        ]
        rows = summarise(asked, measure(asked, jobs, console))
    console.print(show(rows))
    if joint:
        console.print(show_joint(rows))
    if write:
        write.write_text(json.dumps(rows, indent=2) + "\n")


def _chosen(text: str, known: Sequence[str]) -> list[str]:
    """Return the names between commas.

    Raises:
        OptionError: One that is not known, or none.
    """
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"a name here is one of {', '.join(known)}", repr(unknown[0]), "choose among them")
    return names


def _numbers(text: str, least: int) -> list[int]:
    """Return the whole numbers between commas.

    Raises:
        OptionError: Something else between them, or a number that is too small.
    """
    numbers = [int(number) if number.strip().isdigit() else -1 for number in text.split(",")]
    if min(numbers) < least:
        raise OptionError(f"seeds and workers are whole numbers with commas, here {least} or more", text, "give these")
    return numbers


if __name__ == "__main__":
    app()
