"""`python -m slamlab store check | size | gc`: is everything whole, what takes the room, what can go."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from slamlab.errors import StoreError, exit_on_user_error
from slamlab.terminal import json_line, make_console

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", no_args_is_help=True)

# fmt: off
Address = Annotated[str, typer.Option("--store", metavar="FOLDER_OR_URL", help="Folder of the store, or a URL that fsspec opens (s3://, gs:// ...).")]
# fmt: on


@app.callback()
def main() -> None:
    """What a sweep keeps: is it whole, how large is it, and what of it can go."""


# fmt: off
@app.command()
def check(
    address: Address = "runs",
    repair: Annotated[bool, typer.Option("--repair", help="Remove what is damaged, so that the same sweep makes it again.")] = False,
) -> None:
    # fmt: on
    """Verify every artefact against its checksum; exit code 1 where something is damaged.

    Example: `python -m slamlab store check --store runs --repair`
    """
    out, damaged = make_console(), 0
    with exit_on_user_error():
        from slamlab.sweep.inventory import check as damages
        from slamlab.sweep.inventory import num_bytes_to_check, places
        from slamlab.sweep.inventory import repair as remove
        from slamlab.sweep.store import Store

        store = Store(address)
        for place in places(store):
            total = num_bytes_to_check(place)
            columns = TextColumn("checking"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
            with Progress(*columns, console=make_console(stderr=True), transient=True) as bar:
                task = bar.add_task("", total=total)
                found = list(damages(store, place, lambda num_bytes, bar=bar, task=task: bar.advance(task, num_bytes)))  # type: ignore[misc]
            for one in found:
                of = f" ({'; '.join(one.trials)})" if one.trials else ""
                out.print(f"{one.name}: {one.problem}{of}", markup=False, highlight=False)
                if repair:
                    remove(place, one)
            damaged += len(found)
            where = store.root if place.is_here else store.address
            gone = ", and removed: run the sweep again" * bool(repair and found)
            line = f"{where}: {_size(total)} looked at, {len(found) or 'nothing'} damaged{gone}."
            out.print(line, markup=False, highlight=False)
    if damaged:
        raise typer.Exit(1)


@app.command()
def size(
    address: Address = "runs", as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """Show what takes the room, by kind and by sweep.

    Example: `python -m slamlab store size --store s3://bucket/slamlab`
    """
    with exit_on_user_error():
        from slamlab.sweep.inventory import by_kind, by_sweep, places
        from slamlab.sweep.store import Store

        store = Store(address)
        entries = places(store)[0].entries()
        kinds, sweeps = by_kind(entries), by_sweep(store, entries)
    total = sum(num_bytes for _, num_bytes in kinds.values())
    if as_json:
        told = {
            "store": str(store.address),
            "bytes": total,
            "kinds": {kind: {"number": number, "bytes": num_bytes} for kind, (number, num_bytes) in kinds.items()},
            "sweeps": {name: {"trials": number, "bytes": num_bytes} for name, (number, num_bytes) in sweeps.items()},
        }
        typer.echo(json_line(told))
        return
    table = Table("", "number", "size", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for kind, (number, num_bytes) in kinds.items():
        table.add_row(kind, str(number), _size(num_bytes))
    table.add_row("all", "", _size(total), end_section=True)
    for name, (number, num_bytes) in sweeps.items():
        table.add_row(f"sweep {name}", f"{number} trials", _size(num_bytes))
    out = make_console()
    out.print(table, highlight=False)
    if len(sweeps) > 1:
        out.print("What sweeps share counts in each.", highlight=False)


# fmt: off
@app.command()
def gc(
    address: Address = "runs",
    cache: Annotated[bool, typer.Option("--cache", help="Also the cache: speech, encoder frames and converted weights, which are made again when needed.")] = False,
    older_than: Annotated[float, typer.Option(metavar="HOURS", min=0.0, help="What is younger stays: it may be the work of a sweep on another machine.")] = 24.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; otherwise what would go is shown.")] = False,
) -> None:
    # fmt: on
    """Remove what nothing refers to: drafts, models that were not kept, files that no record names, Ray's own results.

    Records, answers, what they name and the ledger stay. While a sweep runs on the store, nothing is deleted.

    Example: `python -m slamlab store gc --store runs --cache --yes`
    """
    out = make_console()
    with exit_on_user_error(), ExitStack() as held:
        from slamlab.sweep.inventory import places, waste
        from slamlab.sweep.store import Store

        store = Store(address)
        found = places(store)
        if yes:
            held.enter_context(_no_sweep(store.root / "locks"))
        freed = 0
        for place in found:
            for one in waste(store, place, 3600 * older_than, cache=cache):
                out.print(f"{one.name} {one.reason}: {_size(one.num_bytes)}", markup=False, highlight=False)
                freed += one.num_bytes
                if yes:
                    place.remove(one.name)
    out.print(f"{_size(freed)} " + ("freed." if yes else "would be freed: pass --yes to delete."), highlight=False)


@contextmanager
def _no_sweep(locks: Path) -> Iterator[None]:
    """Hold the locks of all sweeps on a store.

    Raises:
        StoreError: A sweep runs.
    """
    with ExitStack() as held:
        for path in sorted(locks.glob("*.lock")):
            file = held.enter_context(path.open("r+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                rule = "nothing is deleted while a sweep runs on the store"
                raise StoreError(rule, f"{path.stem}, which runs", "wait for its end, or stop it") from None
        yield


def _size(num_bytes: int) -> str:
    return next(
        f"{num_bytes / scale:.1f} {unit}"
        for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
        if num_bytes >= scale or scale == 1
    )
