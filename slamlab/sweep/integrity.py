"""How the store tells that an artefact is whole: a checksum inside a JSON file, a manifest inside a folder, a name.

What was written before there were checksums has none, and counts as whole where it can be read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
"""Names the files of a model folder with their sizes and sha256; never one of a base's own files."""
KEPT = ".kept"
NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{32}")
_SEAL = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})",\n')
_NAMES = ("hypotheses", "map", "maps")
"""Under what a record names its files."""


def seal(content: Mapping[str, Any]) -> bytes:
    """Return a JSON object, of finite numbers, whose first entry is the sha256 of the text without that entry."""
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return b'{\n "checksum": "' + hashlib.sha256(text).hexdigest().encode() + b'",\n' + text[2:]


def unseal(content: bytes) -> dict[str, Any] | None:
    """Return the object that :func:`seal` wrote, None where it is damaged; one that has no checksum is believed."""
    sealed = _SEAL.match(content)
    if sealed:
        content = b"{\n" + content[sealed.end() :]
        if hashlib.sha256(content).hexdigest().encode() != sealed[1]:
            return None
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "checksum" not in found else None


def content_name(content: bytes) -> str:
    """Return the stem of a file that is named by its content."""
    return hashlib.sha256(content).hexdigest()[:32]


def is_named_right(name: str, content: bytes) -> bool:
    """Say whether a file's name is that of its content; one that is named otherwise says nothing."""
    stem = PurePosixPath(name).stem
    return not NAMED_BY_CONTENT.fullmatch(stem) or stem == content_name(content)


def files_named(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that a record relies on, by their names in the store; its checkpoint is a folder, and no file."""
    for key, value in record.items():
        if key in _NAMES and isinstance(value, str):
            yield value
        elif isinstance(value, dict) and key != "facts":
            yield from files_named(value)


def describe(record: Mapping[str, Any]) -> str:
    """Return what a record is about, in a few words."""
    cell = record.get("cell")
    parts = [cell[name] for name in ("family", "scale", "encoder", "task", "language")] if cell else []
    block = f"-{record['depth']} at {record['start']}" if record.get("depth") else ""
    return " ".join(map(str, filter(None, ("the", record.get("kind", "trial"), block, "of" * bool(parts), *parts))))


def write_manifest(folder: Path) -> None:
    """Write a folder's manifest; whoever moves the folder to its place does so afterwards."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = [path.stat().st_size, sha256_of(path)]
    (folder / MANIFEST).write_bytes(seal({"files": files}))


def read_manifest(content: bytes) -> dict[str, tuple[int, str]] | None:
    """Return size and sha256 of a folder's files by name, None where it is damaged or names what is outside."""
    files = (unseal(content) or {}).get("files")
    if not isinstance(files, dict):
        return None
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in files):
        return None
    return {name: (size, digest) for name, (size, digest) in files.items()}


def folder_problem(folder: Path, *, hashed: bool) -> str:
    """Return what is wrong with a folder, nothing where it is whole, or has no manifest to tell by.

    Args:
        folder: The folder.
        hashed: Whether bytes are compared too, not only sizes.
    """
    try:
        listed = read_manifest((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return ""
    if listed is None:
        return f"{MANIFEST} is damaged"
    for name, (size, digest) in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if hashed and sha256_of(path) != digest:
            return f"{name} is not what was written"
    return ""


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
