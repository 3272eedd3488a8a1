"""From a user's options to a finished sweep: check everything first, then run what is not known yet."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from slamlab.data.utterance import Corpus
from slamlab.errors import DataError, OptionError, StoreError
from slamlab.sweep.bases import base_identity, base_name, check_given, shipped_folder
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import Cell, make_cells
from slamlab.sweep.cluster.capacity import largest
from slamlab.sweep.device import memory_bytes, zero_plan
from slamlab.sweep.heartbeat import HANG_MINUTES
from slamlab.sweep.plan import estimate
from slamlab.sweep.plan_table import budget_in_words
from slamlab.sweep.progress import Watcher
from slamlab.sweep.results import collect
from slamlab.sweep.settings import Settings
from slamlab.sweep.standing import clock
from slamlab.sweep.store import MIN_FREE_BYTES, Store, fingerprint
from slamlab.zoo.assets import hub_folder
from slamlab.zoo.corpora import absolute_source, open_corpus, unopened
from slamlab.zoo.decoders import decoder_folder, find_decoder
from slamlab.zoo.encoders import locate_encoder
from slamlab.zoo.profiles import PROFILES, Profile

MIN_SCORED = 10
"""Fewer utterances than that give a bootstrap nothing to draw from."""


def choose_profile(requested: str, address: str | None) -> tuple[Profile, str]:
    """Return the profile, and why it was chosen.

    Args:
        requested: `auto`, or a profile's name.
        address: Of a Ray cluster; None for this machine.
    """
    if requested != "auto":
        if requested not in PROFILES:
            raise OptionError(f"a profile is auto, {' or '.join(PROFILES)}", requested, "choose one of these")
        return PROFILES[requested], "as asked"
    if address is not None:
        from slamlab.sweep.cluster.start import start_ray

        num_gpus, where = int(start_ray(address).get("GPU", 0)), f"the Ray cluster at {address}"
        most = int((largest() or {}).get("GPU", 0))
    else:
        import torch

        num_gpus, where = torch.cuda.device_count(), "this machine"
        most = num_gpus
    grows = f", and may grow to {most}" * (most > num_gpus)
    why = f"{where} has {num_gpus or 'no'} GPU{'s' * (num_gpus != 1)}{grows}"
    return PROFILES["paper" if num_gpus or most else "pocket"], why


def sweep_name(job: str, *questions: Sequence[str], changed: Mapping[str, Any] | None = None) -> str:
    """Return a name that tells sweeps with different questions apart.

    Args:
        job: What the sweep does.
        questions: Values of the options that choose its cells.
        changed: Other options that are not at their defaults; a digest of them ends the name.
    """
    given = [re.sub(r"[^\w.]+", "-", Path(value).name).strip("-") for values in questions for value in values]
    return "-".join([job, *given, *([fingerprint(changed)[:6]] if changed else [])])


def default_workers(profile: Profile, address: str | None, devices: int = 1) -> int:
    """Return how many trials of a profile fit at the same time: on the cluster as large as it may grow, or here."""
    if address is not None:
        from slamlab.sweep.cluster.start import start_ray

        found, most = start_ray(address), largest() or {}
        cpus, gpus = (int(max(found.get(name, 0), most.get(name, 0))) for name in ("CPU", "GPU"))
    else:
        import torch

        cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    fit = cpus // (profile.cpus_per_trial * max(devices, 1))
    if profile.gpus_per_trial:
        fit = min(fit, gpus // (profile.gpus_per_trial * max(devices, 1)))
    return max(1, fit)


def prepare(
    profile: Profile,
    *,
    name: str,
    families: Sequence[str],
    scales: Sequence[str],
    encoders: Sequence[str],
    tasks: Sequence[str],
    languages: Sequence[str],
    data: str | None,
    base: str = "auto",
    store: Path | str,
    heal: Mapping[str, Any],
    num_selection: int | None,
    num_test: int | None,
    model: str | None = None,
    plan: bool = False,
    **rest: Any,
) -> tuple[Settings, Corpus]:
    """Turn options into a sweep's settings and open its corpus; every mistake that can be found now is.

    Args:
        profile: Where whatever is not given comes from.
        data: Corpus by name or manifest, None for the profile's.
        model: A SpeechLLM of `transformers` by hub id or folder, in the place of families, scales, encoders and base.
        plan: Whether these settings are planned with, not run: then a corpus of the hub stays unopened.
        rest: Passed on to :class:`~slamlab.sweep.settings.Settings`.

    Raises:
        UserError: An option, corpus, encoder, decoder or store that cannot be used.
    """
    # Workers run elsewhere: a relative path would mean another file there.
    data = absolute_source(data) if data else None
    base = _absolute(base) or base
    if model is not None:
        families = encoders = [model]
        base = model if Path(model).is_dir() else str(hub_folder(model))
        base, scales = str(Path(base).absolute()), ()
    families, encoders = ([_absolute(name) or name for name in names] for names in (families, encoders))
    opened = Store(store).open()
    opened.fetch_ledger(name)
    source = data or profile.corpus
    known = unopened(source) if plan else None
    corpus = known or open_corpus(source, opened.cache, seed=0)
    cells = make_cells(
        profile,
        corpus,
        families=families,
        scales=scales,
        encoders=encoders,
        tasks=tasks,
        languages=languages,
    )
    if known is None:
        _check_splits(corpus, cells)
    if base not in ("auto", "train"):
        for cell in cells:
            check_given(Path(base), cell)
    if base == "auto":
        _check_one_base(corpus, cells)
    if rest.get("devices", 1) > 1 and "zero_stage" not in heal:
        stage, offload = max(_zero_plan(cell, profile, heal, rest["devices"]) for cell in cells)
        heal = {"offload": offload, **heal, "zero_stage": stage}
    settings = Settings(
        name=name,
        profile=profile.name,
        cells=tuple(cells),
        corpus=source,
        corpus_fingerprint=corpus.fingerprint,
        base=base,
        base_identities={" ".join(base_name(cell)): base_identity(cell, base, corpus.fingerprint) for cell in cells},
        store=opened.address,
        heal=heal,
        num_selection=profile.num_selection if num_selection is None else num_selection,
        num_test=profile.num_test if num_test is None else num_test,
        **rest,
    )
    if settings.resample == "speaker" and known is None:
        _check_speakers(corpus, cells, settings.num_selection, settings.num_test)
    return settings, corpus


def _zero_plan(cell: Cell, profile: Profile, heal: Mapping[str, Any], devices: int) -> tuple[int, bool]:
    precision = heal.get("precision", profile.heal_recipe(cell.scale).train.precision)
    num_weights = find_decoder(cell.family, cell.scale).num_params_billion * 1e9
    return zero_plan(num_weights * (2 if precision == "bf16" else 4), memory_bytes(), devices)


def _absolute(path: str | None) -> str | None:
    """Return an existing path as an absolute one; a name or hub id stays what it is."""
    return str(Path(path).absolute()) if path and Path(path).exists() else path


def _check_splits(corpus: Corpus, cells: Sequence[Cell]) -> None:
    """Refuse a cell that could not be healed, searched or reported, before anything runs."""
    for language in dict.fromkeys(cell.language for cell in cells):
        for split in ("train", "selection", "test"):
            found, least = len(corpus.utterances(language, split, MIN_SCORED)), 1 if split == "train" else MIN_SCORED
            if found < least:
                raise DataError(
                    f"a language that is swept has {least} utterances or more in {split}: an interval of fewer is void",
                    f"{found} for {language} in {corpus.name}",
                    "add recordings, or deal them to the splits anew",
                )


def _check_one_base(corpus: Corpus, cells: Sequence[Cell]) -> None:
    """Refuse cells of which a base that ships has learned some and not others."""
    taught = {cell: shipped_folder(cell, corpus.fingerprint) for cell in cells}
    for cell, folder in taught.items():
        known = [other.name for other in cells if taught[other] and base_name(other) == base_name(cell)]
        if not folder and known:
            raise OptionError(
                "one base answers for all tasks and languages of a family, scale and encoder",
                f"{cell.name}, which the base that ships has not learned, beside {known[0]}",
                "leave one of them out with --task or --language, or pass --base train for a base that learns both",
            )


def _check_speakers(corpus: Corpus, cells: Sequence[Cell], num_selection: int, num_test: int) -> None:
    """Refuse to draw speakers where a scored split has fewer than 2, or an utterance without one."""
    for language in dict.fromkeys(cell.language for cell in cells):
        for split, limit in (("selection", num_selection), ("test", num_test), ("test-voices", num_test)):
            speakers = [one.speaker for one in corpus.utterances(language, split, limit)]
            # As few as these are scored by a cheap look, or before a stop.
            if speakers and ("" in speakers or len(set(speakers[:MIN_SCORED])) < 2):
                raise DataError(
                    "a bootstrap over speakers needs the speaker of every utterance, and 2 or more of them among the "
                    f"first {MIN_SCORED} of a split",
                    f"{len(set(speakers))} in {split} of {language} in {corpus.name}"
                    + (f", and {speakers.count('')} utterances without one" if "" in speakers else ""),
                    "pass --resample utterance, or name the speakers in the manifest",
                )


def check_assets(settings: Settings) -> None:
    """Find the weights of every encoder and pretrained decoder, without loading them.

    Raises:
        AssetError: Some cannot be had.
    """
    cache = Store(settings.store).cache / "models"
    for encoder in dict.fromkeys(cell.encoder for cell in settings.cells):
        locate_encoder(encoder, cache)
    for family, scale in dict.fromkeys((cell.family, cell.scale) for cell in settings.cells):
        spec = find_decoder(family, scale)
        if spec.is_pretrained:
            decoder_folder(spec, cache)


def sweep(
    settings: Settings,
    corpus: Corpus,
    console: Console,
    *,
    command: str,
    address: str | None,
    live: bool = True,
    track: Sequence[str] = (),
    report: Path | None = None,
    hang_minutes: float = HANG_MINUTES,
) -> dict[str, Any]:
    """Run what is not known yet and return the results; a finished sweep starts nothing, not even Ray.

    Args:
        settings: The sweep.
        corpus: Its corpus, opened.
        console: Where lines go.
        command: How to run it again.
        address: Of the Ray cluster; None for this machine.
        live: Whether a terminal gets a live view.
        track: Where metrics go as well, of :data:`slamlab.sweep.tracking.TRACKERS`.
        report: Where the report will be.
        hang_minutes: How long a worker may tell nothing; 0 for as long as it likes.

    Raises:
        StoreError: Another process runs a sweep of this name on the same store; or a disk is full.
    """
    store = Store(settings.store)
    with _alone(store, settings.name):
        campaign = Campaign(settings, store)
        expected = estimate(settings, store, campaign)
        if campaign.finished:  # needs no room
            left = "nothing more fits the budget" if campaign.is_cut else "nothing to compute"
            every = "What the budget allows" if campaign.is_cut else "Every trial"
            console.print(f"{every} of this sweep is in the store: {left}.")
        else:
            check_assets(settings)
            store.open(MIN_FREE_BYTES + round(expected.disk_bytes))
            cells = f"{len(settings.cells)} cell{'s' * (len(settings.cells) > 1)}"
            duration = f", about {clock(expected.wall_s)} of work" if expected.wall_s else ""
            console.print(
                f"{cells}, about {expected.num_expected:.0f} trials to run (at most {expected.max_trials}){duration}, "
                f"{campaign.num_settled} in the store; {settings.workers} at a time.",
                highlight=False,
            )
            for told in budget_in_words(expected):
                console.print(told, highlight=False)
            if settings.devices > 1:
                recipes = [settings.heal_recipe(cell).train for cell in settings.cells]
                stage = " and ".join(map(str, sorted({recipe.zero_stage for recipe in recipes})))
                where = ", offloaded to the host's memory" if any(recipe.offload for recipe in recipes) else ""
                console.print(
                    f"A heal takes {settings.devices} devices, at ZeRO stage {stage}{where}.", highlight=False
                )
            from slamlab.sweep.cluster.nodes import await_nodes
            from slamlab.sweep.cluster.run import run
            from slamlab.sweep.cluster.start import start_ray

            start_ray(address)
            await_nodes(settings, address, lambda line: console.print(line, highlight=False), settings.devices)
            whole = campaign.num_settled + expected.num_expected
            with Watcher(console, campaign, whole, live=live, report=report) as watcher:
                run(campaign, watcher, track, hang_minutes)
            if not campaign.finished:
                console.print("Stopped before the end. What is finished is kept: the same command goes on from here.")
        store.send_ledger(settings.name, now=True)
        return collect(campaign, command=command, corpus_name=corpus.name, problems=corpus.problems)


@contextmanager
def _alone(store: Store, name: str) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    path = store.root / "locks" / f"{name}.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                "one process at a time runs a sweep on a store", f"a second one of {name}", "wait for the first"
            ) from None
        yield
