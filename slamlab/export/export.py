"""One export from top to bottom: write and check the model, measure it beside the unpruned one, describe it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slamlab.export.answers import Answer
from slamlab.export.card import CARD_FILE, README_FILE, card_facts, render_card
from slamlab.export.folder import whole_folder, write_checked
from slamlab.export.measure import measure
from slamlab.model.slam import CONFIG_FILE, SlamConfig
from slamlab.model.speechllm import SPEECHLLM_FILE
from slamlab.zoo.profiles import Precision

MEASUREMENTS_FILE = "measurements.json"


def export(
    answer: Answer,
    out: Path,
    *,
    cache: Path,
    command: str,
    precision: Precision | None = None,
    max_shard_size: str = "2GB",
    base: Path | None = None,
    measured: bool = True,
    with_decoder: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Export a model: afterwards `out` is whole, or as it was.

    Args:
        answer: The model, and what a sweep says of it.
        out: A new or empty folder.
        cache: Where weights had by name are kept.
        command: How to do it again, for the card.
        precision: Of the weights; None for that of the checkpoint.
        max_shard_size: Largest file of the decoder's weights, such as `500MB`.
        base: Folder of the unpruned model, which measuring needs.
        measured: Whether to measure.
        with_decoder: Whether a SpeechLLM's decoder is also written by itself.
        say: Takes a line of progress.

    Raises:
        AssetError: A model cannot be loaded.
        ModelError: The checkpoint has an unmerged adapter, or the export would not be the same model.
        StoreError: The folder cannot be written, or is not empty.
    """
    with whole_folder(out) as draft:
        say(f"write {answer.checkpoint} and check it")
        written = write_checked(
            answer.checkpoint,
            draft,
            precision=precision,
            max_shard_size=max_shard_size,
            cache=cache,
            with_decoder=with_decoder,
        )
        found: dict[str, Any] | None = None
        if measured and base is not None:
            say(f"measure it beside {base}")
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=".draft-") as unpruned:
                dtype: Precision = "bf16" if written["dtype"] == "bfloat16" else "fp32"
                write_checked(
                    base,
                    Path(unpruned),
                    precision=dtype,
                    max_shard_size=max_shard_size,
                    cache=cache,
                    with_decoder=False,
                )
                found = measure(Path(unpruned), draft, cache)
            _write_json(draft / MEASUREMENTS_FILE, found)
        names = draft / (SPEECHLLM_FILE if written["architecture"] else CONFIG_FILE)
        config = SlamConfig(**json.loads(names.read_text(encoding="utf-8")))
        facts = card_facts(answer, config, written, command=command, base=base)
        _write_json(draft / CARD_FILE, facts)
        (draft / README_FILE).write_text(render_card(facts, found), encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
