"""Map how little each block of decoder layers changes the residual stream: text alone, speech, and a LoRA decoder.

As Figure 1 of the paper (arXiv 2603.05121), with intervals: for every cell the angular distance across every block, for
text alone and for audio, prompt and answer, of the unpruned model and of one whose decoder was adapted with LoRA. Then how
well maps agree: text with speech, task with task, language with language, encoder with encoder. Nothing is pruned.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from slamlab.credentials import refuse_credentials
from slamlab.errors import exit_on_user_error
from slamlab.terminal import make_console

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    family: Annotated[
        list[str], typer.Option(help="A decoder family or a causal LM's id; several with commas, or all.")
    ] = ["qwen"],
    scale: Annotated[list[str], typer.Option(help="Decoder scale: mini, 135m, 1b ...; default: the profile's.")] = [],
    encoder: Annotated[
        list[str], typer.Option(help="Speech encoder by name, hub id or folder; default: the profile's.")
    ] = [],
    task: Annotated[list[str], typer.Option(help="asr (recognition), st (translation into English), or all.")] = [],
    language: Annotated[list[str], typer.Option(help="Spoken language: en, de, fr ...; or all.")] = [],
    profile: Annotated[
        str, typer.Option(help="pocket (small, no GPU), paper, or auto: paper where there are GPUs.")
    ] = "auto",
    data: Annotated[
        str | None,
        typer.Option(
            help="Corpus by name (`max_prune.py --help` lists them), a copy of one as NAME=FOLDER, or a manifest (.jsonl, "
            ".csv) of your own recordings; several with commas."
        ),
    ] = None,
    base: Annotated[
        str, typer.Option(help="auto (shipped where there is one), train (anew), or a model's folder.")
    ] = "auto",
    num_utterances: Annotated[
        int, typer.Option(help="Utterances of the selection split that a map averages over.")
    ] = 64,
    num_resamples: Annotated[int, typer.Option(help="Bootstrap resamples of them, for the intervals.")] = 200,
    num_test: Annotated[
        int | None, typer.Option(help="Utterances of the test split that say how good the mapped models are.")
    ] = None,
    lora_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps a cell that LoRA adapts every layer for; 0 for no such map; default: those of healing."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of training and resampling.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads, without a cluster.")] = 2,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to join, e.g. auto: the maps of each base are a task there; default: all in this process."
        ),
    ] = None,
    store: Annotated[
        str, typer.Option(help="Folder of ledger, models and features, or a URL; may serve many sweeps.")
    ] = "runs",
    reports: Annotated[Path, typer.Option(help="Folder in which reports/NAME is written.")] = Path("reports"),
    name: Annotated[
        str | None, typer.Option(help="Name of the report; default: redundancy and the options that choose its cells.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the maps and the time that are expected, and run nothing.")
    ] = False,
) -> None:
    """Parse, map, compare, report."""
    console = make_console()
    with exit_on_user_error():
        command = refuse_credentials(shlex.join(["python", *sys.argv]))
        import numpy as np
        import torch

        from slamlab.report.agreement import compare_all
        from slamlab.report.redundancy import render_redundancy
        from slamlab.sweep import launch
        from slamlab.sweep.command import split
        from slamlab.sweep.maps import MapSettings, collect_maps, make_maps
        from slamlab.sweep.plan_table import maps_table
        from slamlab.sweep.store import Store

        torch.set_num_threads(threads)
        chosen, why = launch.choose_profile(profile, address)
        console.print(f"Profile {chosen.name} ({why}).")
        questions = [split(option) for option in (family, scale, encoder, task, language)]
        families, scales, encoders, tasks, languages = questions
        title = name or launch.sweep_name("redundancy", *questions, [Path(data.partition("=")[0]).stem] if data else [])
        settings, corpus = launch.prepare(
            chosen, name=title, families=families, scales=scales, encoders=encoders, tasks=tasks, languages=languages,
            data=data, base=base, store=store, heal={}, num_selection=None, num_test=num_test, seed=seed,
        )  # fmt: skip
        recipe = settings.heal_recipe(settings.cells[0])
        lora = replace(
            recipe, train=replace(recipe.train, num_steps=recipe.train.num_steps if lora_steps is None else lora_steps)
        )
        how = MapSettings(
            num_utterances=num_utterances, num_resamples=num_resamples, lora=lora if lora_steps != 0 else None
        )
        if plan:
            console.print(maps_table(settings, Store(settings.store), lora_steps=lora.train.num_steps))
            return
        launch.check_assets(settings)
        make = make_maps
        if address is not None:
            from slamlab.sweep.cluster.maps import make_maps_on_cluster
            from slamlab.sweep.cluster.nodes import await_nodes
            from slamlab.sweep.cluster.start import start_ray

            start_ray(address)
            await_nodes(settings, address, lambda line: console.print(line, markup=False))
            make = make_maps_on_cluster
        made = make(settings, how, lambda line: console.print(line, markup=False))
        told, arrays = collect_maps(
            settings, how, made, command=command, corpus_name=corpus.name, problems=corpus.problems
        )
        out = reports / settings.name
        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / "maps.npz", **arrays)
        told["agreement"] = compare_all(told["maps"], arrays, seed=seed)
        (out / "redundancy.json").write_text(
            json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )
        render_redundancy(out)
    console.print(f"Report: {out / 'index.html'}")


if __name__ == "__main__":
    app()
