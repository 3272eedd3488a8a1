"""Disks, real ones: one that is full in mid-sweep, and one that goes away for a while."""

import subprocess
import time

import arena
import pytest
import simulated

from slamlab.sweep.mount import MARK

ROOM_BYTES = 400_000
"""For a ledger and the first trials, not for the sweep."""
AWAY_S, HANG_MINUTES = 30.0, 5


@pytest.fixture
def mount(tmp_path):
    """Return a function that mounts something at a folder, by the arguments of `mount`, and returns the folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "--bind", tmp_path, folder], capture_output=True, check=False).returncode:
        pytest.skip("takes the right to mount")
    subprocess.run(["umount", folder], check=True)

    def at_folder(*what):
        subprocess.run(["mount", *what, folder], check=True)
        return folder

    yield at_folder
    # All that is left: Path.is_mount() does not see what was mounted from the same disk.
    while subprocess.run(["umount", "-l", folder], capture_output=True, check=False).returncode == 0:
        pass


def test_a_full_disk_ends_a_sweep_that_goes_on_when_there_is_room(mount, tmp_path, record_property):
    """A sentence, no trial blamed, and with room again the sweep goes on."""
    small_disk = mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    ballast, store = small_disk / "ballast", small_disk / "runs"
    ballast.write_bytes(b"0" * (8 * 1024 * 1024 - ROOM_BYTES))
    full = arena.Driver([arena.HERE / "simulated.py", store, 0], tmp_path / "full.log")
    assert full.ends() == 2, full.said
    (sentence,) = [line for line in full.said.splitlines() if line.startswith("error:")]
    assert "a full disk" in sentence
    assert "run the same command again" in sentence
    assert "FAILED" not in full.said

    ballast.unlink()
    again = arena.Driver([arena.HERE / "simulated.py", store, 0], tmp_path / "again.log")
    assert again.ends() == 0, again.said
    simulated.go(tmp_path / "alone")
    assert simulated.answer(store) == simulated.answer(tmp_path / "alone")
    assert not list(store.rglob(".draft-*")), "nothing half-written is left"
    assert full.orphans(agents=False) == again.orphans() == []
    record_property("faults", ("full disk", 1, 1))


def test_a_store_that_goes_away_for_a_while_is_waited_for(mount, tmp_path, record_property):
    """Its mount leaves an empty folder, in which nobody begins a second store."""
    behind = tmp_path / "behind"
    behind.mkdir()
    store = mount("--bind", behind) / "runs"
    driver = arena.Driver([arena.HERE / "simulated.py", store, 0, HANG_MINUTES], tmp_path / "driver.log")
    driver.until(lambda: len(list((store / "trials").glob("*.json"))) >= 3)
    subprocess.run(["umount", "-l", store.parent], check=True)
    time.sleep(AWAY_S)
    begun = {path.name for path in store.parent.rglob("*")}  # but for what was under way in that very moment
    assert not begun & {MARK, "ledger.db", "status", "logs", "ray"}
    mount("--bind", behind)
    assert driver.ends() == 0, driver.said
    by_workers = "".join(path.read_text() for path in (store / "logs").rglob("*.log"))
    assert "does not answer" in driver.said + by_workers
    assert "FAILED" not in driver.said
    simulated.go(tmp_path / "alone")
    assert simulated.answer(store) == simulated.answer(tmp_path / "alone")
    assert driver.orphans() == []
    record_property("faults", (f"store away for {AWAY_S:.0f} s", 1, 1))
