"""A full disk is one sentence, whoever says it: real writers on a device that is always full."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slamlab.disk import disk_full, whole_file
from slamlab.errors import StoreError, exit_on_user_error

DEVICE = Path("/dev/full")  # whose every write finds no space left
needs_device = pytest.mark.skipif(not DEVICE.exists(), reason="no /dev/full")


def _raised(work):
    with pytest.raises(Exception) as caught:  # what is raised is the subject
        work()
    return caught.value


@needs_device
def test_what_the_system_says():
    error = _raised(lambda: DEVICE.write_bytes(b"content"))
    assert error.errno == errno.ENOSPC
    told = disk_full(error)
    assert isinstance(told, StoreError)
    assert "needs room" in str(told)
    assert "run the same command again" in str(told)


def test_what_sqlite_says():
    with closing(sqlite3.connect(":memory:")) as ledger:
        ledger.execute("CREATE TABLE rows (content BLOB)")
        ledger.execute("PRAGMA max_page_count = 4")
        error = _raised(lambda: ledger.execute("INSERT INTO rows VALUES (zeroblob(1000000))"))
    assert isinstance(error, sqlite3.OperationalError)
    assert disk_full(error)


def test_what_wraps_it_counts_too_and_nothing_else_does():
    try:
        try:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/store/trials")
        except OSError as error:
            raise RuntimeError("the run failed") from error
    except RuntimeError as error:
        assert "a full disk at /store/trials" in str(disk_full(error))
    assert disk_full(RuntimeError("CUDA error: out of memory")) is None
    assert disk_full(OSError(errno.EIO, "Input/output error")) is None


def test_a_command_ends_with_the_sentence(capsys):
    with pytest.raises(SystemExit) as end, exit_on_user_error():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: a sweep needs room")
    assert told.count("\n") == 1
    with pytest.raises(OSError, match="another"), exit_on_user_error():
        raise OSError("another")


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Return a file system of its own that has room for 1 MB."""
    from subprocess import run

    folder = tmp_path_factory.mktemp("small")
    if run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("takes the right to mount")
    yield folder
    run(["umount", "-l", folder], check=True)


def test_what_safetensors_says(small_disk):
    tensor = torch.zeros(4_000_000, dtype=torch.uint8)

    assert disk_full(_raised(lambda: save_file({"weights": tensor}, small_disk / "state")))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "kept.json"
    with whole_file(path) as draft:
        draft.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), whole_file(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("kept.json", "first")]
    assert path.stat().st_mode & 0o777 == 0o644
