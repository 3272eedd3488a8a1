"""Whatever is damaged after a sweep: it is named, what relied on it is computed again, and the answer is the same."""

import json
import shutil

import pytest
from small_world import World, cell, drive, small_sweep, told

from slamlab.sweep import integrity
from slamlab.sweep.integrity import MANIFEST
from slamlab.sweep.store import Store

pytestmark = pytest.mark.usefixtures("no_look_ups")

EN, DE = cell(), cell("de")
EDGES = {EN: 2, DE: 1}


class Weighty(World):
    """A world whose checkpoints hold something to damage."""

    def run(self, request):
        put = self.store.put_folder

        def fill(draft):
            (draft / "weights.bin").write_bytes(b"weights" * 100)

        self.store.put_folder = lambda folder, _: put(folder, fill)
        try:
            return super().run(request)
        finally:
            self.store.put_folder = put


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of a finished sweep, and its results."""
    root = tmp_path_factory.mktemp("finished") / "runs"
    settings = small_sweep(root, cells=(EN, DE))
    return root, told(drive(settings, Weighty(settings, EDGES, num_layers=4)))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _lose(path):
    path.unlink()


def _record(store, kind, of=EN):
    (found, *_) = [one for one in store.records() if one["kind"] == kind and one["cell"] == of.as_dict()]
    return found


def _in_record(kind, *path):
    def find(store):
        value = _record(store, kind)
        for part in path:
            value = value[part]
        return store.root / value

    return find


KINDS = {
    "base record": (lambda store: store.root / "trials" / f"{_record(store, 'base')['fingerprint']}.json", "base"),
    "probe record": (lambda store: store.root / "trials" / f"{_record(store, 'probe')['fingerprint']}.json", "probe"),
    "final record": (lambda store: store.root / "trials" / f"{_record(store, 'final')['fingerprint']}.json", "final"),
    "map": (_in_record("base", "map"), "base"),
    "base's hypotheses": (_in_record("base", "scores", "test", "hypotheses"), "base"),
    "probe's hypotheses": (_in_record("probe", "scores", "selection", "hypotheses"), "probe"),
    "final's hypotheses": (_in_record("final", "scores", "test", "hypotheses"), "final"),
    "weights": (lambda store: _in_record("final", "checkpoint")(store) / "weights.bin", "final"),
    "manifest": (lambda store: _in_record("final", "checkpoint")(store) / MANIFEST, "final"),
}


@pytest.mark.parametrize("damage", [_flip, _truncate, _lose])
@pytest.mark.parametrize("what", KINDS)
def test_it_is_named_and_only_what_relied_on_it_is_computed_again(finished, tmp_path, capsys, what, damage):
    root, expected = finished
    settings = small_sweep(shutil.copytree(root, tmp_path / "runs"), cells=(EN, DE))
    find, kind = KINDS[what]
    path = find(Store(settings.store))
    damage(path)
    world = Weighty(settings, EDGES, num_layers=4)
    campaign = drive(settings, world)
    if what == "manifest" and not path.exists():  # as in a store of before there were manifests
        assert world.computed == []
        return
    if what == "map":  # of the decoder alone here, so that both bases rely on it: one is computed, and serves both
        assert [one.kind for one in world.computed] == ["base"]
    else:
        assert [(one.kind, one.cell) for one in world.computed] == [(kind, EN)]
    said = capsys.readouterr().err
    if path.exists() and "record" in what and damage is _lose:
        assert said == ""  # nobody knows of it
    else:
        named = path.parent if path.parent.parent.name == "checkpoints" else path
        assert named.relative_to(settings.store).as_posix() in said
        assert "again" in said
    assert told(campaign) == expected
    again = Weighty(settings, EDGES, num_layers=4)
    drive(settings, again)
    assert again.computed == []
    assert capsys.readouterr().err == ""


def test_a_damaged_ledger_is_put_aside_and_nothing_is_computed_again(finished, tmp_path, capsys):
    root, expected = finished
    settings = small_sweep(shutil.copytree(root, tmp_path / "runs"), cells=(EN, DE))
    ledger = settings.store / "ledger.db"
    ledger.write_bytes(ledger.read_bytes()[:5000])
    store = Store(settings.store)
    store.fetch_ledger(settings.name)
    assert "ledger.db is damaged" in capsys.readouterr().err
    world = Weighty(settings, EDGES, num_layers=4)
    assert told(drive(settings, world)) == expected
    assert world.computed == []
    assert len(list(settings.store.glob("ledger.damaged-*.db"))) == 1
    store.fetch_ledger(settings.name)
    assert capsys.readouterr().err == ""


def test_no_flipped_bit_of_a_record_goes_unseen(tmp_path):
    record = {"fingerprint": "f" * 64, "kind": "base", "text": "größer", "numbers": [1, 2.5, None]}
    content = integrity.seal(record)
    assert integrity.unseal(content) == record
    assert json.loads(content)["kind"] == "base"
    for place in range(len(content)):
        found = integrity.unseal(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        # Where the very name of the checksum is hit, what it was of is still whole.
        assert found is None or found | record == found, f"byte {place}"


def test_a_store_of_before_there_were_checksums_serves(finished, tmp_path, capsys):
    root, expected = finished
    settings = small_sweep(shutil.copytree(root, tmp_path / "runs"), cells=(EN, DE))
    for path in (settings.store / "trials").iterdir():
        record = integrity.unseal(path.read_bytes())
        path.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False))
    for path in settings.store.rglob(MANIFEST):
        path.unlink()
    world = Weighty(settings, EDGES, num_layers=4)
    assert told(drive(settings, world)) == expected
    assert world.computed == []
    assert capsys.readouterr().err == ""


def test_a_manifest_names_nothing_outside_its_folder(tmp_path):
    for name in ("../secret", "/etc/passwd", "a/../../b"):
        assert integrity.read_manifest(integrity.seal({"files": {name: [1, "0" * 64]}})) is None
    assert integrity.read_manifest(integrity.seal({"files": {"a/b": [1, "0" * 64]}})) == {"a/b": (1, "0" * 64)}


def test_bytes_of_a_large_folder_are_not_read_to_use_it(tmp_path, monkeypatch):
    store = Store(tmp_path).open(min_free_bytes=0)
    path = store.checkpoint_folder("a" * 64)
    store.put_folder(path, lambda draft: (draft / "weights.bin").write_bytes(b"weights"))
    monkeypatch.setattr("slamlab.sweep.store.HASHED_BYTES", 3)
    _flip(path / "weights.bin")
    assert Store(tmp_path).has_folder(path)
    monkeypatch.setattr("slamlab.sweep.store.HASHED_BYTES", 10_000)
    assert not Store(tmp_path).has_folder(path)
    assert list(path.parent.iterdir()) == []
