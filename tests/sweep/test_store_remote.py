"""Stores at a URL: a real S3 server on loopback where one is installed, and a folder through the same code."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_world import World, cell, drive, events, open_campaign, small_sweep, told

from slamlab.errors import StoreAway, StoreError
from slamlab.scoring.journal import Answer
from slamlab.sweep import patience
from slamlab.sweep.integrity import KEPT, MANIFEST
from slamlab.sweep.remote import Remote
from slamlab.sweep.store import Store, fingerprint
from slamlab.training.resume import Keeper

pytestmark = pytest.mark.usefixtures("no_look_ups")

EN, DE = cell(), cell("de")
EDGES = {EN: 2, DE: 1}


class Server:
    """An S3 server on loopback in a process of its own, that can go away and come back with what it holds."""

    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-c", "from moto.server import main; import sys; main(sys.argv[1:])"]
        self.process = subprocess.Popen(
            [*command, "-H", "127.0.0.1", "-p", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.1)
        raise RuntimeError("the server does not come up")


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    pytest.importorskip("flask_cors")
    running = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield running
    running.process.terminate()
    running.process.wait()


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path):
    """Return the URL of an empty store."""
    if request.param == "file":
        return f"file://{tmp_path / 'there'}"
    request.getfixturevalue("server")
    return f"s3://bucket/{tmp_path.name}"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return what makes this process one on another machine: with another working folder."""

    def become(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    become("a")
    return become


@pytest.fixture
def brief(monkeypatch):
    """Wait for a store in little time."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.1)


def _open(url):
    return Store(url).open(min_free_bytes=0)


def _fill(draft):
    (draft / "decoder").mkdir()
    (draft / "decoder" / "weights.bin").write_bytes(b"weights" * 1000)
    (draft / "slam.json").write_text("{}")


def _cut(store, name, size=3):
    """Cut an object at the URL."""
    store.remote._fs.pipe_file(store.remote._at(name), store.remote._fs.cat_file(store.remote._at(name))[:size])


def test_a_sweep_goes_on_from_another_machine_and_computes_nothing_again(url, machine, tmp_path):
    alone = small_sweep(tmp_path / "runs", cells=(EN, DE))
    expected = told(drive(alone, World(alone, EDGES, num_layers=4)))
    settings = small_sweep(url, cells=(EN, DE))
    first = World(settings, EDGES, num_layers=4)
    campaign = drive(settings, first)
    assert told(campaign) == expected
    campaign.store.send_ledger(settings.name, now=True)

    machine("b")
    store = _open(url)
    assert not (store.root / "ledger.db").exists()
    store.fetch_ledger(settings.name)
    store.fetch_records([record["fingerprint"] for record in campaign.store.records()])
    world = World(settings, EDGES, num_layers=4)
    assert told(drive(settings, world)) == expected
    assert world.computed == []
    assert world.store.root != first.store.root

    machine("c")  # and without the ledger, from the records alone
    world = World(settings, EDGES, num_layers=4)
    assert told(drive(settings, world)) == expected
    assert world.computed == []


def test_a_folder_appears_whole_or_not_at_all(url, machine):
    here = _open(url)
    path = here.checkpoint_folder("a" * 64)
    name = here.put_folder(path, _fill)
    here.keep_folder(path)
    machine("b")
    there = _open(url)
    same = there.checkpoint_folder("a" * 64)
    assert there.has_folder(same, here=False)
    assert not same.exists()
    assert there.has_folder(same)
    assert (same / "decoder" / "weights.bin").read_bytes() == b"weights" * 1000
    assert (same / KEPT).exists()
    there.drop_folder(same)
    assert same.exists(), "somebody relies on it"

    here.remote.remove(f"{name}/{MANIFEST}")  # as if it was half sent
    machine("c")
    third = _open(url)
    assert not third.has_folder(third.checkpoint_folder("a" * 64))
    third.put_folder(third.checkpoint_folder("a" * 64), _fill)
    assert third.remote.has_folder(name)


def test_a_folder_that_nobody_relies_on_goes_here_and_there(url, machine):
    store = _open(url)
    path = store.checkpoint_folder("a" * 64)
    name = store.put_folder(path, _fill)
    store.drop_folder(path)
    assert not path.exists()
    assert store.remote.names(name) == []


def test_what_is_damaged_there_is_named_and_made_again(url, machine, capsys):
    store = _open(url)
    path = store.checkpoint_folder("a" * 64)
    folder = store.put_folder(path, _fill)
    name = store.put_bytes("maps", ".npz", b"content")
    record = {"fingerprint": fingerprint("facts"), "kind": "base", "map": name}
    store.write_record(record)
    machine("b")
    there = _open(url)
    assert there.read_record(record["fingerprint"]) == record
    assert there.read_bytes(name) == b"content"

    _cut(there, name)
    _cut(there, f"{folder}/decoder/weights.bin")
    machine("c")
    third = _open(url)
    assert third.read_record(record["fingerprint"]) is None
    assert not third.has_folder(third.checkpoint_folder("a" * 64))
    said = capsys.readouterr().err
    assert f"{name} at {url} is damaged" in said
    assert f"{folder} at {url} is damaged (decoder/weights.bin has 3 bytes, not 7000)" in said
    third.put_bytes("maps", ".npz", b"content")
    third.put_folder(third.checkpoint_folder("a" * 64), _fill)
    machine("d")
    fourth = _open(url)
    assert fourth.read_record(record["fingerprint"]) == record
    assert fourth.has_folder(fourth.checkpoint_folder("a" * 64))

    _cut(fourth, f"trials/{record['fingerprint']}.json", 50)
    machine("e")
    assert _open(url).read_record(record["fingerprint"]) is None
    assert f"trials/{record['fingerprint']}.json is damaged" in capsys.readouterr().err


def test_what_is_damaged_here_is_fetched_again(url, machine, capsys):
    store = _open(url)
    name = store.put_bytes("maps", ".npz", b"content")
    record = {"fingerprint": fingerprint("facts"), "kind": "base", "map": name}
    store.write_record(record)
    path = store.checkpoint_folder("a" * 64)
    store.put_folder(path, _fill)
    for damaged in (store.root / name, store.root / "trials" / f"{record['fingerprint']}.json", path / "slam.json"):
        damaged.write_bytes(b"?")
    again = _open(url)
    assert again.read_record(record["fingerprint"]) == record
    assert again.has_folder(path)
    assert (path / "slam.json").read_text() == "{}"
    assert capsys.readouterr().err.count("damaged") == 3


def test_heals_and_answers_go_on_elsewhere(url, machine):
    store = _open(url)
    store.write_heal("a" * 64, [2.0], 3.0, 4.0)
    state = store.heal_state("b" * 64)
    state.write_bytes(b"state")
    store.share(state)
    journal = store.journal("c" * 64)
    journal.append([])
    store.share(journal.path)
    machine("b")
    there = _open(url)
    assert there.read_heal("a" * 64) == {"losses": [2.0], "wall_seconds": 3.0, "device_seconds": 4.0}
    assert there.heal_state("b" * 64).read_bytes() == b"state"
    assert there.journal("c" * 64).path.exists()
    there.drop_heal_state("b" * 64)
    machine("c")
    assert not _open(url).heal_state("b" * 64).exists()


def test_a_store_that_goes_away_is_waited_for_and_says_so(url, machine, monkeypatch, capsys):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    store = _open(url)
    names = [name for name in ("put_file", "get_file", "info") if hasattr(store.remote._fs, name)]
    failures = dict.fromkeys(names, 3)

    def flaky(name, real):
        def work(*given, **options):
            if failures[name]:
                failures[name] -= 1
                raise ConnectionError("unplugged")
            return real(*given, **options)

        return work

    for name in names:
        monkeypatch.setattr(store.remote._fs, name, flaky(name, getattr(store.remote._fs, name)))
    name = store.put_bytes("maps", ".npz", b"content")
    (store.root / name).unlink()
    assert store.read_bytes(name) == b"content"
    assert failures == dict.fromkeys(names, 0)
    assert f"the store {url} does not answer (ConnectionError: unplugged): tried again in" in capsys.readouterr().err


def test_a_server_that_comes_back_is_found_again(server, machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.2)
    store = _open(f"s3://bucket/{tmp_path.name}")
    os.kill(server.process.pid, 19)  # stopped: connections wait, and nobody answers
    threading.Timer(3.0, lambda: os.kill(server.process.pid, 18)).start()
    name = store.put_bytes("maps", ".npz", b"content")
    assert store.remote.has(name)


def test_a_store_that_stays_away_is_a_sentence(url, machine, monkeypatch, brief):
    store = _open(url)

    def refuse(*_, **__):
        raise ConnectionError("unplugged")

    monkeypatch.setattr(store.remote._fs, "put_file", refuse)
    with pytest.raises(StoreError, match=r"comes back within .* minutes, got .*unplugged.*run the same command again"):
        store.put_bytes("maps", ".npz", b"content")


def test_mistakes_of_an_address_are_sentences(server, machine, monkeypatch):
    for address, received in (
        ("gopher://somewhere/x", "gopher"),
        ("ftp://me:secret@host/x", r"ftp://\S+@host"),
        ("s3://no-such-bucket/x", "no-such-bucket"),
    ):
        with pytest.raises(StoreError, match=received) as caught:
            _open(address)
        assert "secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StoreError, match="pip install gcsfs"):
        _open("gs://bucket/x")


def test_a_url_and_a_folder_are_told_apart(machine, tmp_path):
    store = Store(f"file://{tmp_path}/there/")
    assert store.address == f"file://{tmp_path}/there"
    assert store.root.is_relative_to(tmp_path / "a")
    assert Store(store.address).root == store.root
    assert Store("runs").remote is None
    assert isinstance(store.remote, Remote)


def test_a_folder_whose_mount_went_away_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.05)
    store = Store(tmp_path / "runs").open(min_free_bytes=0)
    record = {"fingerprint": "f" * 64, "kind": "base"}
    store.write_record(record)
    store.root.rename(tmp_path / "away")
    threading.Timer(0.2, lambda: (tmp_path / "away").rename(store.root)).start()
    assert store.read_record("f" * 64) == record
    assert "does not answer (FileNotFoundError" in capsys.readouterr().err
    monkeypatch.setattr(patience, "PATIENCE_S", 0.05)
    real, stale = Path.read_bytes, [OSError(116, "Stale file handle"), OSError(5, "Input/output error")]
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) if not stale else _throw(stale.pop()))
    monkeypatch.setattr(patience, "PATIENCE_S", 10.0)
    assert store.read_record("f" * 64) == record
    assert stale == []


@pytest.mark.parametrize("moment", (1, 2, 7, 10))
def test_a_sweep_whose_folder_goes_away_waits_with_ledger_and_artefacts(tmp_path, monkeypatch, moment):
    _soon(monkeypatch)
    alone, settings = (small_sweep(tmp_path / name, cells=(EN, DE)) for name in ("alone", "runs"))
    expected = told(drive(alone, World(alone, EDGES, num_layers=4)))
    campaign, world = open_campaign(settings), World(settings, EDGES, num_layers=4)
    for number, _ in enumerate(events(campaign, world)):
        if number == moment:
            said = _goes_away(settings.store, campaign.store, world.store)
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert told(campaign) == told(open_campaign(settings)) == expected
    assert max(Counter(world.computed).values()) == 1


def test_answers_and_the_state_of_a_heal_wait_too(tmp_path, monkeypatch):
    _soon(monkeypatch)
    store, answer = Store(tmp_path / "runs").open(min_free_bytes=0), Answer(id="u1", hypothesis="said")
    keeper = Keeper(store.heal_state("a" * 64), "run", lambda: (1.0, 1.0), patiently=store.patiently)
    for work in (lambda: keeper.write([0.5], {"w": torch.ones(2)}), lambda: store.journal("b" * 64).append([answer])):
        said = _goes_away(store.root, store)
        work()
        assert len(said) == 1
    assert Keeper(keeper.path, "run", lambda: (1.0, 1.0)).state.losses == (0.5,)
    assert store.journal("b" * 64).read() == {"u1": answer}


def test_a_worker_that_begins_while_the_store_is_away_waits_for_it(tmp_path, monkeypatch):
    _soon(monkeypatch)
    root, begins = tmp_path / "runs", Store(tmp_path / "runs")
    Store(root).open(min_free_bytes=0).put_bytes("maps", ".npz", b"content")
    said = _goes_away(root, begins)
    assert (begins.awaited().root / "maps").exists()
    assert len(said) == 1


def test_a_worker_on_another_machine_does_not_wait_for_what_only_the_drivers_has(machine, tmp_path, brief):
    url = f"file://{tmp_path / 'there'}"
    open_campaign(small_sweep(url))
    machine("b")
    begins = Store(url).awaited()
    name = begins.put_bytes("maps", ".npz", b"content")
    assert begins.remote.has(name)


def test_what_is_made_while_the_folder_goes_is_made_again_when_it_is_back(tmp_path, monkeypatch):
    _soon(monkeypatch)
    store, fills = Store(tmp_path / "runs").open(min_free_bytes=0), []

    def fill(draft):
        fills.append(draft)
        if len(fills) == 1:
            _goes_away(store.root, store)
            (draft / "decoder").mkdir(parents=True)
        (draft / "weights").write_text("w")

    store.put_folder(store.checkpoint_folder("c" * 64), fill)
    assert len(fills) == 2
    assert store.has_folder(store.checkpoint_folder("c" * 64))


def test_a_store_that_stays_away_is_no_failure_of_a_trial(tmp_path, brief):
    store = Store(tmp_path / "runs").open(min_free_bytes=0)
    (tmp_path / "runs").rename(tmp_path / "away")
    with pytest.raises(StoreAway, match=r"comes back within .* minutes.*run the same command again"):
        store.put_bytes("maps", ".npz", b"content")
    assert not (tmp_path / "runs").exists()


def _soon(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "PATIENCE_S", 10.0)


def _goes_away(root, *stores):
    """Take a store's folder away, as a mount does that leaves an empty one; it is back when one says that it waits."""
    away, said = root.with_name("away"), []
    root.rename(away)
    root.mkdir()

    def come_back(line):
        said.append(line)
        if away.exists():
            shutil.rmtree(root)
            away.rename(root)

    for store in stores:
        store.say = come_back
    return said


def _throw(error):
    raise error
