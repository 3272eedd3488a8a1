"""What is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from slamlab.errors import OptionError
from slamlab.sweep import launch
from slamlab.sweep.cells import Cell
from slamlab.zoo.profiles import PROFILES


def test_cells_that_one_base_has_not_all_learned_are_refused(
    tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shipped(cell: Cell, _: str) -> Path | None:
        return Path("folder") if cell.language == "de" and cell.family == "qwen" else None

    def prepare(languages: list[str], *families: str, base: str = "auto") -> None:
        launch.prepare(
            PROFILES["pocket"], name="x", families=families, scales=[], encoders=[], tasks=["asr"],
            languages=languages, data=None, base=base, store=tmp_path, heal={}, num_selection=None, num_test=None,
        )  # fmt: skip

    (tmp_path / "cache").symlink_to(speech)
    monkeypatch.setattr(launch, "shipped_folder", shipped)
    with pytest.raises(OptionError, match=r"asr en, which the base that ships has not learned, beside .* asr de"):
        prepare(["de", "en"], "qwen")
    prepare(["de"], "qwen", "llama")  # two bases, of which one ships
    prepare(["en"], "qwen")  # its base is trained
    prepare(["de", "en"], "qwen", base="train")
