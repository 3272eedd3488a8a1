"""A disk that is full in mid-sweep, a real one: a sentence, no trial blamed, and with room again the sweep goes on."""

import subprocess

import arena
import pytest
import simulated

ROOM_BYTES = 400_000
"""For a ledger and the first trials, not for the sweep."""


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("takes the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_a_sweep_that_goes_on_when_there_is_room(small_disk, tmp_path, record_property):
    ballast, store = small_disk / "ballast", small_disk / "runs"
    ballast.write_bytes(b"0" * (8 * 1024 * 1024 - ROOM_BYTES))
    full = arena.Driver([arena.HERE / "simulated.py", store], tmp_path / "full.log")
    assert full.ends() == 2, full.said
    (sentence,) = [line for line in full.said.splitlines() if line.startswith("error:")]
    assert "a full disk" in sentence
    assert "run the same command again" in sentence
    assert "FAILED" not in full.said

    ballast.unlink()
    again = arena.Driver([arena.HERE / "simulated.py", store], tmp_path / "again.log")
    assert again.ends() == 0, again.said
    simulated.go(tmp_path / "alone")
    assert simulated.answer(store) == simulated.answer(tmp_path / "alone")
    assert not list(store.rglob(".draft-*")), "nothing half-written is left"
    assert full.orphans(agents=False) == again.orphans() == []
    record_property("faults", ("full disk", 1, 1))
