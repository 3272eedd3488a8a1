"""Where the unpruned model of a cell comes from: shipped with the project, given, kept in the store, or trained now."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from slamlab.data.features import FeatureStore
from slamlab.data.utterance import Corpus
from slamlab.errors import AssetError, ModelError
from slamlab.model.slam import CONFIG_FILE, SlamModel, find_folder, load
from slamlab.model.speechllm import load_speechllm
from slamlab.sweep.cells import Cell
from slamlab.sweep.integrity import MANIFEST
from slamlab.sweep.settings import Settings
from slamlab.sweep.store import Store, fingerprint
from slamlab.training.base import BaseRequest, Progress, make_base
from slamlab.zoo.assets import folder_fingerprint, sha256_of
from slamlab.zoo.decoders import find_decoder
from slamlab.zoo.profiles import BaseRecipe, as_json
from slamlab.zoo.towers import is_speechllm, tower_spec

SHIPPED = Path(__file__).parents[1] / "zoo" / "bases"
CARD_FILE = "card.json"


@dataclass(frozen=True, kw_only=True)
class Base:
    """An unpruned model in memory.

    Attributes:
        name: Family, scale and encoder.
        model: The model, never changed.
        fingerprint: sha256 over its files.
        origin: `shipped`, `given`, or `trained`.
    """

    name: tuple[str, str, str]
    model: SlamModel
    fingerprint: str
    origin: str


def shipped_folder(cell: Cell, corpus_fingerprint: str) -> Path | None:
    """Return the base that ships for a cell, None where there is none, or it was trained on other data or for others.

    Data made by another version of the synthesis could put a test sentence among those the base has learned.
    """
    folder = SHIPPED / f"{cell.family}-{cell.scale}-{cell.encoder}"
    if not (folder / CARD_FILE).is_file():
        return None
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    known = (name for name, made_of in card["corpora"].items() if made_of == corpus_fingerprint)
    return folder if any(cell.name in card["scores"].get(name, {}) for name in known) else None


def trained_folder(cell: Cell, settings: Settings, store: Store) -> Path:
    """Return where the base lies that this sweep trains, or has trained."""
    recipe = settings.recipes().base_recipe(cell.scale)
    return store.base_folder(base_key(cell, recipe, settings.corpus_fingerprint, settings.seed))


def base_key(cell: Cell, recipe: BaseRecipe, corpus_fingerprint: str, seed: int) -> str:
    """Return the fingerprint of what makes a trained base what it is."""
    return fingerprint(
        {
            "family": cell.family,
            "scale": cell.scale,
            **({"decoder": _stats(Path(cell.family))} if Path(cell.family).is_dir() else {}),
            "encoder": cell.encoder,
            "recipe": as_json(recipe),
            "corpus": corpus_fingerprint,
            "seed": seed,
        }
    )


def base_name(cell: Cell) -> tuple[str, str, str]:
    """Return what cells with one base have in common."""
    return cell.family, cell.scale, cell.encoder


def base_identity(cell: Cell, base: str, corpus_fingerprint: str) -> str:
    """Return what the base of a cell is made of, where it exists before the sweep; empty where the sweep trains it."""
    folder = Path(base) if base not in ("auto", "train") else None
    if base == "auto":
        folder = shipped_folder(cell, corpus_fingerprint)
    if folder and is_speechllm(folder):
        return fingerprint(_stats(folder))
    return _digest(folder) if folder else ""


def check_given(folder: Path, cell: Cell) -> None:
    """Refuse a base that was given for a cell of another family, scale or encoder.

    Raises:
        AssetError: The folder is not a SLAM model.
        ModelError: It is a model of something else.
    """
    if is_speechllm(folder):
        if cell.family != cell.encoder:
            raise ModelError("a SpeechLLM of `transformers` is pruned as a whole", folder, "pass it as --model")
        tower_spec(cell.encoder, folder)
        return
    if not (folder / CONFIG_FILE).is_file():
        raise AssetError(f"a SLAM model's folder holds {CONFIG_FILE}", folder, "give a folder that slamlab wrote")
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    for part, wanted in (("family", cell.family), ("scale", cell.scale)):
        if config[part] != wanted:
            raise ModelError(
                f"the base in {folder} is of {part} {config[part]}", f"--{part} {wanted}", f"name the base's own {part}"
            )


def _digest(folder: Path) -> str:
    """Return the sha256 over a model's files, without what describes them."""
    apart = (CARD_FILE, "README.md", MANIFEST)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in apart)
    return fingerprint([[path.relative_to(folder).as_posix(), sha256_of(path)] for path in files])


def _stats(folder: Path) -> list[list[object]]:
    """Return what tells that a folder was written to: large weights are not read for that."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def folder_of(base: str, store: Store, speechllm: str = "") -> Path | None:
    """Return the folder of the base with a fingerprint, None where there is none.

    Args:
        base: The fingerprint.
        store: Where bases lie beside those that ship.
        speechllm: Folder or hub id of a SpeechLLM, where the base is one; it lies where it was given.
    """
    if speechllm:
        try:
            folder = find_folder(speechllm)
            return folder if folder_fingerprint(folder, store.cache) == base else None
        except AssetError:  # it is gone
            return None
    folders = (
        path.parent for root in (SHIPPED, store.root / "bases") for path in sorted(root.glob(f"*/{CONFIG_FILE}"))
    )
    return next((folder for folder in folders if _digest(folder) == base), None)


def existing_folder(cell: Cell, settings: Settings, store: Store) -> tuple[Path, str] | None:
    """Return the folder and origin of a base that need not be trained, None where one must be."""
    if settings.base not in ("auto", "train"):
        return Path(settings.base), "given"
    if settings.base == "auto" and (folder := shipped_folder(cell, settings.corpus_fingerprint)):
        return folder, "shipped"
    folder = trained_folder(cell, settings, store)
    return (folder, "trained") if store.has_folder(folder) else None


def find_base(
    cell: Cell, settings: Settings, corpus: Corpus, features: FeatureStore, store: Store
) -> Generator[Progress, None, Base]:
    """Load the base of a cell, training it first where there is none; yield progress.

    Raises:
        ModelError: A base that was given has another encoder, or frames of another width.
    """
    found = existing_folder(cell, settings, store)
    if found is None:
        recipe = settings.recipes().base_recipe(cell.scale)
        request = BaseRequest(
            family=cell.family, scale=cell.scale, encoder=cell.encoder, recipe=recipe, seed=settings.seed
        )
        model = yield from make_base(request, corpus, features, store.cache / "models")
        folder = trained_folder(cell, settings, store)
        with_decoder = not find_decoder(cell.family, cell.scale).is_pretrained
        store.put_folder(folder, lambda draft: model.save(draft, with_decoder=with_decoder))
        found = folder, "trained"
    folder, origin = found
    if is_speechllm(folder):
        speechllm = load_speechllm(cell.encoder).float()
        return Base(
            name=base_name(cell), model=speechllm, fingerprint=folder_fingerprint(folder, store.cache), origin=origin
        )
    model = load(folder, cache=store.cache / "models").float()
    if (model.config.encoder, model.config.encoder_width) != (cell.encoder, features.spec.width):
        raise ModelError(
            f"the base in {folder} listens through {model.config.encoder} ({model.config.encoder_width} wide)",
            f"--encoder {cell.encoder} ({features.spec.width} wide)",
            "name the base's own encoder",
        )
    return Base(name=base_name(cell), model=model, fingerprint=_digest(folder), origin=origin)
