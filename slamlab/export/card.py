"""The model card: `card.json` for programs, `README.md` for people and the hub, both from the same facts.

Whatever comes from outside (names, reasons, commands, a corpus' title) is text here and nothing else: YAML is written
by a library, and in Markdown every character that could mean something is an entity, which only ever stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import metadata, version
from pathlib import Path
from statistics import median
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from slamlab.export.answers import Answer
from slamlab.model.slam import SlamConfig
from slamlab.scoring.metrics import METRICS
from slamlab.zoo.decoders import DECODERS
from slamlab.zoo.encoders import ENCODERS
from slamlab.zoo.languages import LANGUAGES

CARD_FILE, README_FILE = "card.json", "README.md"
UNKNOWN_LICENSE = "unknown: see the base"
PACKAGES = ("slamlab", "torch", "transformers", "safetensors")
TASK_TAGS = {"asr": "automatic-speech-recognition", "st": "speech-translation"}


def card_facts(
    answer: Answer, config: SlamConfig, written: Mapping[str, Any], *, command: str, base: Path | None
) -> dict[str, Any]:
    """Return all that a card tells, but for measurements, as plain data.

    Args:
        answer: The model, with what a sweep says of it.
        config: Its configuration.
        written: What :func:`slamlab.export.folder.write_checked` returned.
        command: The export's own.
        base: Folder of the unpruned model where it is at hand: its card may name a licence.
    """
    found, sweep = answer.found, answer.sweep
    spec = DECODERS.get((config.family, config.scale))  # None of a decoder by hub id or folder
    decoder = config.family if spec is None else spec.hub_id
    encoder = ENCODERS[config.encoder].hub_id if config.encoder in ENCODERS else config.encoder
    if written["architecture"]:  # a SpeechLLM, of which decoder and encoder are parts
        decoder = encoder
    origin = (found.get("base") or {}).get("origin")
    removed = None
    if found:
        removed = {"start": found["start"], "depth": found["max_depth"], "num_layers": found["num_layers"]}
    return {
        "family": config.family,
        "scale": config.scale,
        "encoder": config.encoder,
        "decoder": decoder,
        "base": found.get("base"),
        "base_model": _hub_ids(*dict.fromkeys((decoder, encoder))),
        "license": _license(decoder, origin, base),
        "languages": sorted({question["language"] for question in answer.questions}),
        "tasks": sorted({question["task"] for question in answer.questions}),
        "removed": removed,
        "unpruned_layers": spec and spec.num_layers,
        "written": dict(written),
        "verdict": found.get("verdict"),
        "reason": found.get("reason"),
        "p_feasible": found.get("p_feasible"),
        "scores": _scores(answer),
        "controls": _controls(answer),
        "tolerance": sweep.get("tolerance"),
        "alpha": sweep.get("alpha"),
        "corpus": sweep.get("corpus"),
        "heal": (sweep.get("heal") or {}).get(found.get("scale", config.scale)),
        "profile": sweep.get("profile"),
        "seed": sweep.get("seed"),
        "commit": sweep.get("commit"),
        "versions": {"sweep": sweep.get("versions"), "export": {package: version(package) for package in PACKAGES}},
        "commands": [*([sweep["command"]] if "command" in sweep else []), command],
    }


def render_card(facts: Mapping[str, Any], measurements: Mapping[str, Any] | None) -> str:
    """Return the text of a model card, its YAML front matter first.

    Args:
        facts: As :func:`card_facts` returns them.
        measurements: As :func:`slamlab.export.measure.measure` returns them, None where nothing was measured.
    """
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    jinja.filters |= {"flat": _flat, "score": _score, "percent": _percent, "ends": _ends, "size": _size}
    front_matter = Markup(_front_matter(facts).to_yaml().rstrip())
    return jinja.get_template("card.md.jinja").render(
        **facts, front_matter=front_matter, title=_title(facts), measured=measurements, rows=_rows(measurements)
    )


def escape(text: object) -> str:
    """Return text that Markdown shows as it is, wherever it stands in a line; what is `Markup` stays."""
    if isinstance(text, Markup):
        return str(text)
    return re.sub(r"[^\w \-.,:;/+=%()]|_", lambda match: f"&#{ord(match[0])};", " ".join(str(text).split()))


def _flat(text: object) -> Markup:
    """Return text for a line of an indented code block, where nothing but a line's end means anything."""
    return Markup(" ".join(str(text).split()))


def _title(facts: Mapping[str, Any]) -> str:
    name, removed = f"{facts['family']}-{facts['scale']} on {facts['encoder']}", facts["removed"]
    if facts["written"]["architecture"]:
        name = facts["scale"]
    return f"{name} without {removed['depth']} of {removed['num_layers']} decoder layers" if removed else name


def _front_matter(facts: Mapping[str, Any]) -> ModelCardData:
    corpus = " ".join(str((facts["corpus"] or {}).get("name", "unknown")).split())
    scores = [
        EvalResult(
            task_type=TASK_TAGS.get(row["task"], row["task"]),
            dataset_type=corpus,
            dataset_name=corpus,
            dataset_config=row["language"],
            dataset_split=row["split"],
            metric_type=row["metric"],
            metric_value=row["pruned"],
        )
        for row in facts["scores"]
        if row["split"] != "selection"  # where the block was chosen
    ]
    written_in = {"en"} if "st" in facts["tasks"] else set()
    return ModelCardData(
        model_name=" ".join(_title(facts).split()),
        library_name="transformers" if facts["written"]["architecture"] else None,
        base_model=facts["base_model"] or None,
        license="unknown" if facts["license"] == UNKNOWN_LICENSE else facts["license"],
        language=sorted(written_in.union(facts["languages"]) & LANGUAGES.keys()) or None,
        pipeline_tag="automatic-speech-recognition",
        tags=["speech", "layer-pruning", "slamlab", *(TASK_TAGS[task] for task in facts["tasks"] if task in TASK_TAGS)],
        metrics=sorted({row["metric"] for row in facts["scores"]}) or None,
        eval_results=scores or None,
    )


def _scores(answer: Answer) -> list[dict[str, Any]]:
    rows = []
    for question, splits in zip(answer.questions, answer.scores, strict=True):
        for split, both in splits.items():
            baseline, pruned = both["baseline"], both["pruned"]
            rows.append(
                {
                    **{part: question[part] for part in ("task", "language", "metric")},
                    "split": split,
                    "unpruned": baseline["value"],
                    "unpruned_ci95": baseline.get("ci95"),
                    "pruned": pruned["value"],
                    **{name: pruned.get(name) for name in ("relative_degradation", "ci95", "p_within", "verdict")},
                    "num_utterances": pruned["num_utterances"],
                    "signature": pruned["signature"],
                }
            )
    return rows


def _controls(answer: Answer) -> list[dict[str, Any]]:
    """Return what the model costs against the same heal with nothing removed, where the sweep measured that."""
    splits = (answer.found.get("control") or {}).get("splits")
    if not splits:
        return []
    rows = []
    for question, by_split in zip(answer.questions, [splits] if isinstance(splits, Mapping) else splits, strict=True):
        for split, both in by_split.items():
            told = {part: question[part] for part in ("task", "language", "metric")}
            told |= {name: both["pruned"].get(name) for name in ("relative_degradation", "ci95", "verdict")}
            rows.append({**told, "split": split, "control": both["baseline"]["value"]})
    return rows


def _hub_ids(*names: str) -> list[str]:
    """Return those of the names of models that are hub ids: a miniature has none, nor has somebody's folder."""
    return [name for name in names if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and not Path(name).exists()]


def _license(decoder: str, origin: str | None, base: Path | None) -> str:
    """Return the licence that the base's card names; of a shipped miniature, which is ours, our own; else unknown."""
    cards = [base / README_FILE] if base else []
    if _hub_ids(decoder) and isinstance(cached := try_to_load_from_cache(decoder, README_FILE), str):
        cards.insert(0, Path(cached))
    for card in cards:
        if card.is_file():
            try:
                told = ModelCard.load(card, ignore_metadata_errors=True).data.license
            except (OSError, ValueError):
                continue
            if isinstance(told, str) and re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", told):
                return told
    if origin == "shipped" and not decoder:
        return str(metadata("slamlab")["License-Expression"] or UNKNOWN_LICENSE).lower()
    return UNKNOWN_LICENSE


def _rows(measurements: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return measured runs as the card shows them: a ratio and its range; on a GPU times too."""
    return [
        {**run, "ratio": f"{median(run['ratios']):.2f}", "range": _range(run["ratios"]), "num": len(run["ratios"])}
        for run in (measurements or {}).get("runs", [])
    ]


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _score(value: float, metric: str) -> str:
    """Write an error rate in percent, a BLEU or chrF from 0 to 100."""
    is_rate = metric in METRICS and METRICS[metric].is_error_rate
    return f"{100 * value:.2f} %" if is_rate else f"{value:.1f}"


def _percent(fraction: float | None) -> str:
    return "unbounded" if fraction is None else f"{100 * fraction:+.1f} %"


def _ends(ci95: Sequence[float | None] | None, metric: str | None = None) -> Markup:
    """Write an interval, of scores by a metric or of relative degradations."""
    if ci95 is None:
        return Markup("")
    low, high = (_score(end, metric) if metric and end is not None else _percent(end) for end in ci95)
    return Markup(f"({escape(low)} to {escape(high)})")


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
