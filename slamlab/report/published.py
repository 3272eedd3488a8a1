"""What "Measuring the Redundancy of Decoder Layers in SpeechLLMs" published, beside what was measured here.

Moumen, Sun and Woodland, arXiv 2603.05121. The figures are from digests of the paper by others and were not checked
against its PDF. Of the paper's models only those are listed of which a number of layers is told; where no score is, the
row says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slamlab.report.early import num_scored
from slamlab.report.results import cell_verdict
from slamlab.report.tables import DEGRADATION, Row, Table, cell_name, removed
from slamlab.report.writing import DASH, NBSP, degradation, metric_name, metric_value, percent
from slamlab.zoo.decoders import DECODERS

NOTE = (
    "The paper's figures are from digests of arXiv 2603.05121 by others, not checked against its PDF; its relative "
    "degradation is worked out from rounded scores. Each row says on which data it was measured: where these differ, "
    "scores stand side by side and nothing is claimed."
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model of the paper.

    Attributes:
        family: As cells name it.
        scale: Likewise.
        task: Likewise.
        language: Likewise.
        model: As the paper names it, with how its decoder was adapted where that is told.
        decoder: `frozen` or `lora`, empty where it is not told.
        depth: Layers removed.
        num_layers: Layers before.
        metric: Of the scores.
        scores: Unpruned and healed, as fractions, by data set.
        remark: What else is told of the model, as a sentence.
    """

    family: str
    scale: str
    task: str = "asr"
    language: str = "en"
    model: str
    decoder: str = ""
    depth: int
    num_layers: int
    metric: str = "wer"
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class AgainstPaper:
    """The paper beside a sweep's cells.

    Attributes:
        table: The paper's rows above each cell's own.
        notes: How to read it, a paragraph each.
    """

    table: Table
    notes: tuple[str, ...]


CLEAN, OTHER, LOQUACIOUS = "LibriSpeech test-clean", "LibriSpeech test-other", "Loquacious"
PUBLISHED = (
    Published(
        family="qwen",
        scale="7b",
        model="Qwen2.5-7B, frozen decoder",
        decoder="frozen",
        depth=8,
        num_layers=28,
        scores={CLEAN: (0.0201, 0.0236), OTHER: (0.0477, 0.0483), LOQUACIOUS: (0.1221, 0.1491)},
    ),
    Published(family="qwen", scale="7b", model="Qwen2.5-7B, LoRA decoder", decoder="lora", depth=5, num_layers=28),
    Published(
        family="qwen",
        scale="3b",
        model="Qwen2.5-3B",
        depth=11,
        num_layers=36,
        scores={CLEAN: (0.0222, 0.0253), OTHER: (0.0483, 0.0512), LOQUACIOUS: (0.1724, 0.1669)},
    ),
    Published(
        family="llama",
        scale="8b",
        model="Llama-3.1-8B",
        depth=14,
        num_layers=32,
        scores={CLEAN: (0.0265, 0.0328), OTHER: (0.0503, 0.0628), LOQUACIOUS: (0.2050, 0.1892)},
        remark="Of Llama-3.1-8B the paper reports, with 40 % of its layers removed, decoding about 35 % faster and "
        "10.37 in place of 15.72 GiB.",
    ),
    Published(family="llama", scale="1b", model="Llama-3.2-1B", depth=1, num_layers=16),
)
"""Recognition with WavLM-Large. Of the translation scores the digests name no model, so that no cell has them."""


def published_for(cell: Mapping[str, Any]) -> list[Published]:
    """Return the paper's rows that a cell's answer may stand beside.

    A base that SLAMLab trained on a pretrained decoder has a frozen one, and so has no row of a LoRA decoder beside it;
    of a base that was given that is not known.
    """
    asked = ("family", "scale", "task", "language")
    frozen = _has_frozen_decoder(cell)
    return [
        one
        for one in PUBLISHED
        if all(getattr(one, name) == cell[name] for name in asked) and not (frozen and one.decoder == "lora")
    ]


def _has_frozen_decoder(cell: Mapping[str, Any]) -> bool:
    origin = (cell.get("base") or {}).get("origin", "given")
    try:
        return origin != "given" and DECODERS[cell["family"], cell["scale"]].is_pretrained
    except KeyError:  # records of a decoder that this version does not know by name
        return False


def against_paper(cells: Sequence[Mapping[str, Any]], anchors: Sequence[str], corpus: str) -> AgainstPaper | None:
    """Return the paper's rows beside the cells' own, None where no cell has any.

    Args:
        cells: The records.
        anchors: Ids of the cells in the page.
        corpus: Name of the sweep's corpus.
    """
    rows: list[Row] = []
    notes = [NOTE]
    for cell, anchor in zip(cells, anchors, strict=True):
        beside = published_for(cell)
        if beside and cell_verdict(cell) != "failed":
            rows += [Row(texts=texts) for one in beside for texts in _published_texts(one)]
            rows.append(Row(texts=_own_texts(cell, corpus), anchor=anchor))
            notes += [one.remark for one in beside if one.remark]
    if not rows:
        return None
    columns = ("Model", "Measured by", "On", "Layers removed", "Unpruned", "Pruned, healed", DEGRADATION, "n")
    table = Table(columns=columns, rows=tuple(rows), numeric=frozenset(range(3, 8)))
    return AgainstPaper(table=table, notes=tuple(dict.fromkeys(notes)))


def _published_texts(one: Published) -> list[tuple[str, ...]]:
    """Write a row of the paper for each data set that it was scored on, one without scores where there is none."""
    depth = f"{one.depth} of {one.num_layers} ({percent(one.depth / one.num_layers)})".replace(" ", NBSP)
    head = (f"{one.model} · WavLM-Large", "paper")
    if not one.scores:
        return [(*head, DASH, depth, *[DASH] * 4)]
    return [
        (
            *head,
            data,
            depth,
            f"{metric_value(unpruned, one.metric)}{NBSP}{metric_name(one.metric)}",
            metric_value(healed, one.metric),
            percent((healed - unpruned) / unpruned, sign=True),
            DASH,
        )
        for data, (unpruned, healed) in one.scores.items()
    ]


def _own_texts(cell: Mapping[str, Any], corpus: str) -> tuple[str, ...]:
    """Write what was measured here, on the test split unless the cell was scored on the selection split only."""
    on_selection = not cell.get("pruned") and (cell.get("selection") or {}).get("pruned")
    split, scores = ("selection", cell["selection"]) if on_selection else ("test", cell)
    baseline, pruned = scores["baseline"], scores.get("pruned")
    return (
        cell_name(cell),
        "this sweep",
        f"{corpus}, {split} split",
        removed(cell) if cell["max_depth"] else "none found",
        f"{metric_value(baseline['value'], cell['metric'])}{NBSP}{metric_name(cell['metric'])}",
        metric_value(pruned["value"], cell["metric"]) if pruned else DASH,
        degradation(pruned) if pruned else DASH,
        num_scored(scores),
    )
