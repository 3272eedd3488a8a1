"""Make the report of a sweep again, from its records alone: no torch, no Ray, no search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slamlab.errors import exit_on_user_error
from slamlab.report.page import render
from slamlab.report.redundancy import render_redundancy
from slamlab.report.redundancy_records import FILE_NAME
from slamlab.report.results import read_results
from slamlab.sweep.remote import is_url
from slamlab.terminal import printable


def main(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder that a sweep wrote, with its results.json, or redundancy.json.", metavar="REPORT"),
    ],
    store: Annotated[
        str, typer.Option(help="The sweep's store, a folder or a URL: where hypotheses and angular-distance maps lie.")
    ] = "runs",
) -> None:
    """Make the report of a sweep, or of maps, again from its records and what the store still holds.

    Replaces index.html, report.md and figures/ in the folder; the same records give the same bytes. Without the store
    the report has every number, and lacks the maps and the samples of what the models said.

    Example: python sweeps/report.py reports/max_prune-qwen --store runs
    """
    with exit_on_user_error():
        if is_maps := (folder / FILE_NAME).is_file():
            render_redundancy(folder)
        else:
            root = _fetched(store, folder) if is_url(store) else Path(store)
            render(read_results(folder), root, folder)
    if not is_maps and not root.is_dir():
        typer.echo(printable(f"There is no store at {store}: maps and samples are left out (name it with --store)."))
    typer.echo(printable(f"Report: {folder / 'index.html'}"))


def _fetched(url: str, report: Path) -> Path:
    """Return the folder that has what a report names of a store at a URL."""
    from slamlab.sweep.store import Store  # brings `transformers`, which a folder does without

    return Store(url).fetch_for(report)


if __name__ == "__main__":
    typer.run(main)
