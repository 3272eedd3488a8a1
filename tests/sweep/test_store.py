import errno
import json
import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slamlab.errors import StoreError
from slamlab.sweep.mount import MARK
from slamlab.sweep.store import Store, fingerprint


def _record(**more):
    return {"fingerprint": fingerprint(more), **more}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs").open(min_free_bytes=0)


def test_a_fingerprint_knows_content_and_no_order():
    facts = {"block": {"start": 3, "depth": 2}, "seed": 0, "modules": ["up", "down"]}
    shuffled = {"modules": ["up", "down"], "seed": 0, "block": {"depth": 2, "start": 3}}
    assert fingerprint(facts) == fingerprint(shuffled)
    assert len(fingerprint(facts)) == 64
    for other in ({**facts, "seed": 1}, {**facts, "seed": "0"}, {**facts, "modules": ["down", "up"]}):
        assert fingerprint(other) != fingerprint(facts)


def test_open_makes_the_folder_and_leaves_its_mark_in_it(tmp_path):
    store = Store(tmp_path / "a" / "b").open(min_free_bytes=0)
    assert store.root.is_dir()
    assert [path.name for path in store.root.iterdir()] == [MARK]
    store.open(min_free_bytes=0)


def test_the_root_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "runs"
    assert store.ledger_url == f"sqlite:///{tmp_path / 'runs' / 'ledger.db'}"


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(StoreError, match=r"is a folder that can be written, got .*runs \(File exists\): pass"):
        Store(tmp_path / "runs").open()
    assert (tmp_path / "runs").read_text() == "mine"


def test_a_folder_that_nobody_may_write_is_no_store():
    with pytest.raises(StoreError, match=r"/proc/self/runs \(.+\): pass --store with another folder"):
        Store("/proc/self/runs").open()  # even root cannot make a folder there
    with pytest.raises(StoreError, match=r"/proc/self \(.+\)"):
        Store("/proc/self").open()


def test_a_read_only_disk_is_no_store(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(StoreError, match="Read-only file system"):
        Store(tmp_path).open()


def test_a_full_disk_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"needs 1000000000\.0 GB of free disk, got \d.* GB at .*: free some"):
        Store(tmp_path).open(min_free_bytes=10**18)


def test_bytes_are_kept_once_under_their_own_name(store):
    name = store.put_bytes("hypotheses", ".jsonl", b"content")
    before = (store.root / name).stat().st_mtime_ns
    assert store.put_bytes("hypotheses", ".jsonl", b"content") == name
    assert (store.root / name).stat().st_mtime_ns == before
    assert store.put_bytes("hypotheses", ".jsonl", b"other") != name
    assert name.startswith("hypotheses/")
    assert name.endswith(".jsonl")
    assert (store.root / name).read_bytes() == b"content"
    assert stat.S_IMODE((store.root / name).stat().st_mode) == 0o644


def _in_threads(work, number=8):
    barrier, failures = threading.Barrier(number), []

    def wait_and_work(index):
        try:
            barrier.wait()
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=wait_and_work, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_that_write_the_same_bytes_agree(store):
    content, names = os.urandom(1_000_000), set()
    _in_threads(lambda _: names.add(store.put_bytes("maps", ".npz", content)))
    (name,) = names
    assert (store.root / name).read_bytes() == content
    assert len(list((store.root / "maps").iterdir())) == 1  # no drafts stay


def _fill(folder, index):
    (folder / "who.txt").write_text(str(index))
    time.sleep(0.05)
    (folder / "weights.bin").write_bytes(bytes([index]) * 10_000)


def test_threads_that_write_the_same_folder_keep_one_whole(store):
    path, names = store.base_folder("a" * 64), set()
    _in_threads(lambda index: names.add(store.put_folder(path, lambda draft: _fill(draft, index))))
    assert names == {f"bases/{'a' * 32}"}
    winner = int((path / "who.txt").read_text())
    assert (path / "weights.bin").read_bytes() == bytes([winner]) * 10_000
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_whoever_sees_a_folder_sees_all_of_it(store):
    path, seen = store.base_folder("a" * 64), []

    def look():
        while not path.exists():
            pass
        seen.append(len(list(path.iterdir())))

    def fill(draft):
        for index in range(300):
            (draft / str(index)).write_bytes(b"weights")

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    store.put_folder(path, fill)
    reader.join()
    assert seen == [301]  # its manifest too


def _keep_in_process(root, index, ready):
    store = Store(root)
    ready.wait()
    store.put_bytes("hypotheses", ".jsonl", b"x" * 300_000)
    store.put_folder(store.checkpoint_folder("c" * 64), lambda draft: _fill(draft, index))
    store.write_record(_record(kind="base"))


def test_processes_that_write_the_same_agree(store):
    context = multiprocessing.get_context("fork")  # spawned ones would each import torch first
    ready = context.Event()
    workers = [context.Process(target=_keep_in_process, args=(store.root, i, ready)) for i in range(4)]
    for worker in workers:
        worker.start()
    ready.set()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    folder = store.checkpoint_folder("c" * 64)
    assert (folder / "weights.bin").read_bytes() == bytes([int((folder / "who.txt").read_text())]) * 10_000
    assert store.records() == [_record(kind="base")]
    for kind in ("hypotheses", "checkpoints", "trials"):
        assert len(list((store.root / kind).iterdir())) == 1


def test_a_folder_that_cannot_be_filled_leaves_nothing(store):
    path = store.base_folder("a" * 64)

    def half(draft):
        (draft / "weights.bin").write_bytes(b"half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.put_folder(path, half)
    assert list(path.parent.iterdir()) == []

    def full(draft):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.put_folder(path, full)
    assert list(path.parent.iterdir()) == []
    store.put_folder(path, lambda draft: _fill(draft, 1))
    assert path.is_dir()


def test_a_kept_folder_is_not_filled_again(store):
    path = store.base_folder("a" * 64)
    store.put_folder(path, lambda draft: _fill(draft, 1))
    store.put_folder(path, lambda draft: pytest.fail("it is there"))
    assert (path / "who.txt").read_text() == "1"


def test_a_record_comes_back(store):
    record = _record(kind="probe", text="Müller", numbers=[1, 2.5, None])
    store.write_record(record)
    assert store.read_record(record["fingerprint"]) == record
    assert store.records() == [record]
    assert store.read_record("0" * 64) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b'"text"', b"{}", b"\xff\xfe\x00", b'{"fingerprint": "another"}', None],
    ids=["empty", "cut", "null", "list", "number", "text", "object", "binary", "another", "folder"],
)
def test_a_damaged_record_is_none_and_can_be_written_again(store, content):
    record = _record(kind="probe")
    path = store.root / "trials" / f"{record['fingerprint']}.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert store.read_record(record["fingerprint"]) is None
    assert store.records() == []
    if content is not None:
        store.write_record(record)
        assert store.read_record(record["fingerprint"]) == record


def test_a_record_holds_finite_numbers_only(store):
    with pytest.raises(ValueError, match="JSON"):
        store.write_record(_record(kind="probe") | {"value": float("nan")})
    assert store.records() == []


def test_what_waits_for_a_store_goes_to_other_processes(tmp_path):
    store = Store(tmp_path / "store").open(min_free_bytes=0)
    patiently = pickle.loads(pickle.dumps(store.patiently))
    assert patiently((tmp_path / "store" / MARK).exists)


def test_a_killed_writer_leaves_no_record(store):
    # A process that dies between its first and its last byte: what is left is a draft, not a record.
    script = (
        "import os, sys; from slamlab.sweep.store import Store; os.fsync = lambda _: os._exit(9);"
        "Store(sys.argv[1]).write_record({'fingerprint': 'f' * 64})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    assert done.returncode == 9
    assert store.read_record("f" * 64) is None
    assert store.records() == []


def test_names_in_records_have_forward_slashes_and_no_root(store):
    assert store.relative(store.root / "maps" / "a.npz") == "maps/a.npz"
    assert json.loads(json.dumps(store.relative(store.checkpoint_folder("d" * 64)))) == f"checkpoints/{'d' * 32}"
    with pytest.raises(ValueError, match="not in the subpath"):
        store.relative(Path("/elsewhere"))


def test_a_folder_is_dropped_once_whoever_asks_and_leaves_nothing(store):
    for _ in range(30):
        path = store.checkpoint_folder("e" * 64)
        store.put_folder(path, lambda draft: (draft / "model").write_text("weights"))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(store.drop_folder, [path, path]))
        assert list(path.parent.iterdir()) == []
    store.drop_folder(path)  # nothing there


def test_a_folder_that_somebody_relies_on_stays(store):
    path = store.checkpoint_folder("f" * 64)
    store.keep_folder(path)  # not there: no error, and nothing made
    assert not path.exists()
    store.put_folder(path, lambda draft: (draft / "model").write_text("weights"))
    store.keep_folder(path)
    store.drop_folder(path)
    assert (path / "model").read_text() == "weights"


def test_losses_and_cost_of_a_heal_are_kept(store):
    unknown = {"losses": [], "wall_seconds": 0.0, "device_seconds": 0.0}
    assert store.read_heal("a" * 64) == unknown
    store.write_heal("a" * 64, [2.0, 1.5], 3.0, 6.0)
    assert store.read_heal("a" * 64) == {"losses": [2.0, 1.5], "wall_seconds": 3.0, "device_seconds": 6.0}
    (store.root / "heals" / f"{'a' * 32}.json").write_text("torn")
    assert store.read_heal("a" * 64) == unknown
