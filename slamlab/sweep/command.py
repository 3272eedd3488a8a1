"""The command that `max_prune.py`, `backbone.py` and `curves.py` have in common: options in, a sweep, its report out.

Reads no command line: the scripts do, and say how they were called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from slamlab.credentials import refuse_credentials
from slamlab.errors import OptionError, exit_on_user_error
from slamlab.sweep.heartbeat import HANG_MINUTES, hang_seconds
from slamlab.terminal import make_console

OF_SEARCHES = ("sampler", "price", "max_heals", "rungs", "control")
OF_CURVES = ("methods", "depths", "heal")
"""Options of one kind of sweep alone."""
PANELS = {
    "What is asked": ("family", "scale", "encoder", "model", "task", "language", "profile", "tolerance", "alpha"),
    "What is tried": (*OF_SEARCHES, *OF_CURVES, "convention"),
    "Speech and models": ("data", "base", "num_train", "num_selection", "num_test"),
    "Healing": (
        "heal_steps", "heal_lr", "heal_batch", "heal_target", "lora_r", "lora_alpha", "lora_dropout", "lora_targets",
        "zero_stage", "offload", "precision", "gradient_checkpointing",
    ),
    "Scoring": ("beams", "resample", "early_stop"),
    "The run": (
        "plan", "max_device_hours", "max_price", "gpu_price", "workers", "devices", "address", "store", "reports", "name", "seed",
        "live", "track", "hang_minutes",
    ),
}  # fmt: skip
"""Options by what they are about, as `--help` shows them."""


# fmt: off
def sweep_app(job: str, text: str | None, called: Callable[[], str], *, joint: bool = False, curves: bool = False) -> typer.Typer:
    """Return the command of a sweep.

    Args:
        job: What the sweep does: begins its name.
        text: What `--help` says first.
        called: Returns the command line, for the report.
        joint: Whether one block is wanted for all cells of a base together.
        curves: Whether curves over depths are wanted in place of an answer.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

    def main(
        family: Annotated[list[str], typer.Option(help="Decoder family: qwen, llama, qwen3, gemma, smollm; several with commas, or all of the profile; or a causal LM by hub id or folder.")] = ["qwen"],
        scale: Annotated[list[str], typer.Option(help="Decoder scale: mini, 135m, 1b ...; default: the profile's.")] = [],
        encoder: Annotated[list[str], typer.Option(help="Speech encoder by name, hub id or folder; default: the profile's.")] = [],
        model: Annotated[str | None, typer.Option(help="A SpeechLLM that transformers has, by hub id or folder (Qwen2-Audio, Granite-Speech ...), in place of family, scale, encoder and base.")] = None,
        task: Annotated[list[str], typer.Option(help="asr (recognition), st (translation into English), or all.")] = [],
        language: Annotated[list[str], typer.Option(help="Spoken language: en, de, fr ...; or all.")] = [],
        profile: Annotated[str, typer.Option(help="pocket (small, no GPU), paper, or auto: paper where there are GPUs.")] = "auto",
        tolerance: Annotated[float, typer.Option(help="Largest relative loss accepted: 0.25 lets a WER of 10 % become 12.5 %.")] = 0.25,
        alpha: Annotated[float, typer.Option(help="A block is feasible when it is so with probability 1 - alpha.")] = 0.05,
        sampler: Annotated[str, typer.Option(help="Who chooses the blocks: frontier (2 heals a cell where many share a decoder, 6 at most), grid, paper (every depth), bisect, tpe, gp, random.")] = "frontier",
        price: Annotated[float, typer.Option(help="frontier: layers that one more heal must promise. Less: more heals, fewer layers missed.")] = 0.2,
        max_heals: Annotated[int | None, typer.Option(help="Heals a cell at most; default: 6 for frontier, 16 for random, tpe, gp.")] = None,
        rungs: Annotated[list[str], typer.Option(help="Looks that may be taken: full, and cheaper ones (unhealed, short) that frontier uses while they pay.")] = ["full"],
        convention: Annotated[str, typer.Option(help="What a block is judged by beforehand: gromov (angular distance over its own layers) or streamline (over these and the layer kept before them).")] = "gromov",
        control: Annotated[bool, typer.Option("--control", help="Also heal each answer's model with nothing removed, and compare with that: a heal is more training too. One more heal a cell.")] = False,
        methods: Annotated[list[str], typer.Option(help="Which block of each depth: paper (least angular distance), deepest (the last layers but the very last), random.")] = ["paper", "deepest", "random"],
        depths: Annotated[list[str], typer.Option(help="Layers to remove: counts (1,2,4) or fractions of them (0.1,0.25); default: every depth up to 3/4 of the layers.")] = [],
        heal: Annotated[bool, typer.Option("--heal/--no-heal", help="Heal every block too, or score all only as they are cut.")] = True,
        data: Annotated[str | None, typer.Option(help="pocket, asterisk, wordnet; from the hub librispeech, librispeech-other, loquacious, covost2, fleurs, mls, common-voice, or a copy of one of these as NAME=FOLDER; or a manifest (.jsonl, .csv) of your own recordings; several with commas.")] = None,
        base: Annotated[str, typer.Option(help="auto (shipped where there is one), train (anew), or a model's folder.")] = "auto",
        heal_steps: Annotated[int | None, typer.Option(help="Healing steps; default: the profile's.")] = None,
        heal_lr: Annotated[float | None, typer.Option(help="Peak learning rate of healing.")] = None,
        heal_batch: Annotated[int | None, typer.Option(help="Utterances a healing step.")] = None,
        heal_target: Annotated[str, typer.Option(help="What a heal trains: joint (LoRA and projector), projector, decoder (LoRA alone), or layer (the receiving layer whole, and the projector).")] = "joint",
        lora_r: Annotated[int | None, typer.Option(help="Rank of LoRA; 0 heals the projector alone.")] = None,
        lora_alpha: Annotated[int | None, typer.Option(help="Scale of LoRA: its update counts alpha / r times.")] = None,
        lora_dropout: Annotated[float | None, typer.Option(help="Dropout on LoRA's input.")] = None,
        lora_targets: Annotated[list[str], typer.Option(help="Linear layers of the receiving layer that get LoRA; default: its MLP.")] = [],
        zero_stage: Annotated[int | None, typer.Option(help="DeepSpeed ZeRO stage of healing, 0 to 3.")] = None,
        offload: Annotated[bool | None, typer.Option(help="Keep the optimiser's state, at ZeRO stage 3 the weights too, in the host's memory: less of the GPU's, slower. Default with several --devices: where nothing else fits.")] = None,
        precision: Annotated[str | None, typer.Option(help="Precision of healing: fp32, or bf16 (ZeRO 1 and up).")] = None,
        gradient_checkpointing: Annotated[bool | None, typer.Option(help="Compute activations again for the gradient: less memory, slower heals; default: where the paper profile heals 7b and more.")] = None,
        num_train: Annotated[int | None, typer.Option(help="Utterances a cell heals on.")] = None,
        num_selection: Annotated[int | None, typer.Option(help="Utterances the search scores on.")] = None,
        num_test: Annotated[int | None, typer.Option(help="Utterances of the reported figures, which the search never sees.")] = None,
        beams: Annotated[int, typer.Option(help="Beams of decoding; 1 is greedy, as in the paper.")] = 1,
        resample: Annotated[str, typer.Option(help="What intervals draw again: utterance, or speaker where few speak much.")] = "utterance",
        early_stop: Annotated[float, typer.Option(help="Stop scoring a probe once the rest of its split would change the answer with at most this chance; 0 scores everything.")] = 0.001,
        seed: Annotated[int, typer.Option(help="Seed of training, healing and resampling.")] = 0,
        workers: Annotated[int | None, typer.Option(help="Trials at a time; default: what CPUs or GPUs allow.")] = None,
        devices: Annotated[int, typer.Option(help="GPUs that one heal takes (on a CPU: processes). Without --zero-stage, the stage follows from their memory.")] = 1,
        address: Annotated[str | None, typer.Option(help="Ray cluster to join, e.g. auto; default: this machine alone.")] = None,
        store: Annotated[str, typer.Option(help="Folder of ledger, models and features, or a URL that fsspec opens (s3://, gs:// ...); may serve many sweeps.")] = "runs",
        reports: Annotated[Path, typer.Option(help="Folder in which reports/NAME is written.")] = Path("reports"),
        name: Annotated[str | None, typer.Option(help="Name of the sweep; default: the job and the options that choose its cells.")] = None,
        live: Annotated[bool, typer.Option("--live/--no-live", help="Show a live view where there is a terminal, or plain lines as elsewhere.")] = True,
        track: Annotated[list[str], typer.Option(help="Also tell tensorboard, wandb or mlflow, in the store's folder unless they are set up to go elsewhere; several with commas.")] = [],
        hang_minutes: Annotated[float, typer.Option(help="A worker that shows no sign of life for so long is killed, and its trial tried once more, from what it kept; more where models are downloaded slowly, 0 to wait for ever.")] = HANG_MINUTES,
        plan: Annotated[bool, typer.Option("--plan", help="Print trials, time and disk that are expected, and run nothing.")] = False,
        max_device_hours: Annotated[float | None, typer.Option(help="Budget: GPU-hours (on a CPU: hours of its processes) that this sweep may take over all its runs. What does not fit is not begun; what was found is scored and reported, and a larger budget goes on from there.")] = None,
        max_price: Annotated[float | None, typer.Option(help="The same budget as a price; takes --gpu-price.")] = None,
        gpu_price: Annotated[float | None, typer.Option(help="Of a GPU-hour, in any currency: --plan and the report then name prices.")] = None,
    ) -> None:
        # fmt: on
        """Parse, build, run, report."""
        console = make_console()
        with exit_on_user_error():
            command = refuse_credentials(called())
            from slamlab.report.costs import in_closing
            from slamlab.report.page import render
            from slamlab.report.results import write_results
            from slamlab.search.curve import Curve
            from slamlab.sweep import launch
            from slamlab.sweep.plan import estimate
            from slamlab.sweep.plan_table import table
            from slamlab.sweep.store import Store
            from slamlab.sweep.tracking import check_trackers
            from slamlab.zoo.profiles import HEAL_TARGETS

            trackers = check_trackers(split(track))
            hang_seconds(hang_minutes)
            chosen, why = launch.choose_profile(profile, address)
            console.print(f"Profile {chosen.name} ({why}).", highlight=False)
            recipe = {
                "num_steps": heal_steps, "peak_lr": heal_lr, "batch_size": heal_batch, "r": lora_r,
                "alpha": lora_alpha, "dropout": lora_dropout, "target_modules": tuple(split(lora_targets)) or None,
                "zero_stage": zero_stage, "offload": offload, "precision": precision, "num_train": num_train,
                "gradient_checkpointing": gradient_checkpointing,
            }  # fmt: skip
            if model is not None and (family != ["qwen"] or scale or encoder or base != "auto"):
                raise OptionError(
                    "a SpeechLLM brings a decoder, an encoder and their training",
                    f"--model {model} beside --family, --scale, --encoder or --base",
                    "leave these out",
                )
            questions = [split(option) for option in (family, scale, encoder, task, language)]
            families, scales, encoders, tasks, languages = questions
            recipe = {option: value for option, value in recipe.items() if value is not None}
            if heal_target not in HEAL_TARGETS:
                raise OptionError(f"a heal trains {', '.join(HEAL_TARGETS)}", heal_target, "choose one of them")
            of_lora = [f"--lora-{name}" for name, value in (("r", lora_r), ("alpha", lora_alpha), ("dropout", lora_dropout), ("targets", lora_targets or None)) if value is not None]
            if of_lora and heal_target in ("projector", "layer"):
                raise OptionError(f"--heal-target {heal_target} heals without LoRA", " and ".join(of_lora), "leave one of them out")
            recipe |= HEAL_TARGETS[heal_target]
            if curves:
                curve = Curve(methods=tuple(dict.fromkeys(split(methods))), depths=tuple(split(depths)), healed=heal)
                search: dict[str, Any] = {"curve": curve}
            else:
                search = {"sampler": sampler, "price": price, "max_heals": max_heals, "rungs": tuple(dict.fromkeys(["full", *split(rungs)]))}
            search["convention"] = convention
            scoring: dict[str, Any] = {"num_beams": beams, "resample": resample, "early_stop": early_stop}
            defaults = {
                "tolerance": 0.25, "alpha": 0.05, "base": "auto", "seed": 0, "num_selection": None, "num_test": None,
                "sampler": "frontier", "price": 0.2, "max_heals": None, "rungs": ("full",),
                "num_beams": 1, "resample": "utterance", "early_stop": _early_stop(curves), "convention": "gromov", "devices": 1,
            }
            asked = {"tolerance": tolerance, "alpha": alpha, "base": base, "seed": seed, "num_selection": num_selection, "num_test": num_test, "devices": devices, **search, **scoring}
            changed = {option: value for option, value in asked.items() if option in defaults and value != defaults[option]} | recipe
            if curves and curve != Curve():
                changed["curve"] = asdict(curve)
            asked_of = [[model], [], [], *questions[3:]] if model else questions
            title = launch.sweep_name(job, *asked_of, [Path(data.partition("=")[0]).stem] if data else [], changed=changed)
            settings, corpus = launch.prepare(
                chosen, name=name or title, families=families,
                scales=scales, encoders=encoders, tasks=tasks, languages=languages, data=data, store=store,
                model=model, heal=recipe, num_selection=num_selection, num_test=num_test, base=base, tolerance=tolerance, alpha=alpha, seed=seed,
                joint=joint, control=control, plan=plan, devices=devices, **search, **scoring,
                max_device_hours=max_device_hours, max_price=max_price, gpu_price=gpu_price,
                workers=launch.default_workers(chosen, address, devices) if workers is None else workers,
            )  # fmt: skip
            if plan:
                console.print(table(estimate(settings, Store(settings.store))))
                return
            out = reports / settings.name
            results = launch.sweep(settings, corpus, console, command=command, address=address, live=live, track=trackers, report=out.absolute() / "index.html", hang_minutes=hang_minutes)
            write_results(results, out)
            render(results, Store(settings.store).root, out)
        for line in in_closing(results):
            console.print(line, highlight=False)
        console.print(f"Report: {out / 'index.html'}", highlight=False)
        if not results["sweep"]["finished"]:
            raise typer.Exit(130)  # as after any interruption, so that a script notices

    # Typer offers what the signature shows; what it does not show keeps its default.
    shown = inspect.signature(main, eval_str=True)
    for panel, names in PANELS.items():
        for name in names:
            (option,) = shown.parameters[name].annotation.__metadata__
            option.rich_help_panel = panel
    hidden = OF_SEARCHES if curves else OF_CURVES
    offered = {name: one for name, one in shown.parameters.items() if name not in hidden}
    offered["early_stop"] = offered["early_stop"].replace(default=_early_stop(curves))
    main.__signature__ = shown.replace(parameters=list(offered.values()))  # type: ignore[attr-defined]
    app.command(help=text)(main)
    return app


def _early_stop(curves: bool) -> float:
    """Return the default: a curve wants every point on all utterances."""
    return 0.0 if curves else 0.001


def split(values: list[str]) -> list[str]:
    """Return the parts of a repeated option whose values may hold commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
