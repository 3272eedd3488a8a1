"""Corpora of the hub, from copies with the files and columns that the data sets have, and from a hub right here."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Dataset

from slamlab.data import hub, parquet
from slamlab.data.audio import read
from slamlab.data.grammar import spoken_key
from slamlab.data.hub import HubCorpus
from slamlab.data.joined import JoinedCorpus
from slamlab.errors import DataError, OptionError
from slamlab.zoo.corpora import CORPORA, HUB, absolute_source, open_corpus, unopened
from slamlab.zoo.languages import LANGUAGES

SHA = "0123456789abcdef0123456789abcdef01234567"
SPLITS = ("train", "selection", "test")
NUM = {"train": 60, "selection": 14, "test": 14}

COMMON_VOICE = {
    "client_id": "v{k}",
    "path": "/tmp/x/common_voice_{c}_{s}{i}.mp3",
    "audio": None,
    "sentence": "Wort {s} {i}.",
}
LAYOUTS = {
    # Language to look at; files of train, selection, test; columns with what is in them (None: the recording).
    "librispeech": (
        "en",
        (
            (
                "all/train.clean.100-00000-of-00014",
                "all/train.clean.360-00003-of-00048",
                "all/train.other.500-00038-of-00064",
            ),
            ("all/validation.clean-00000-of-00001", "all/validation.other-00000-of-00001"),
            ("all/test.clean-00000-of-00001",),
        ),
        {
            "file": "{i}.flac",
            "audio": None,
            "text": "WORD {s} {i}",
            "speaker_id": "{k}",
            "chapter_id": "7",
            "id": "19-{s}-{i}",
        },
    ),
    "loquacious": (
        "en",
        (("large/train-00000-of-02608",), ("dev/dev-00000-of-00006",), ("test/test-00000-of-00006",)),
        {"ID": "{s}-{i}", "duration": "0.5", "wav": None, "spk_id": "{k}", "sex": "", "text": "word {s} {i}"},
    ),
    "covost2": (
        "de",
        (
            ("de_en/train-00000-of-00008", "de_en/train-00001-of-00008"),
            ("de_en/validation-00000-of-00008",),
            ("de_en/test-00000-of-00008",),
        ),
        {
            "client_id": "{k}",
            "file": "x.mp3",
            "audio": None,
            "sentence": "Wort {s} {i}",
            "translation": "Word {s} {i}",
            "id": "common_voice_de_{s}{i}",
        },
    ),
    "fleurs": (
        "de",
        (("de_de/train/0000", "de_de/train/0001"), ("de_de/validation/0000",), ("de_de/test/0000",)),
        {
            "id": "5",
            "num_samples": "8000",
            "path": "/tmp/de_de/{s}{i}.wav",
            "audio": None,
            "transcription": "wort {s} {i}",
            "raw_transcription": "Wort {s} {i}.",
            "gender": "1",
            "lang_id": "20",
        },
    ),
    "mls": (
        "pl",
        (("polish/train-00000-of-00004",), ("polish/dev-00000-of-00001",), ("polish/test-00000-of-00001",)),
        {
            "audio": None,
            "original_path": "x",
            "transcript": "wort {s} {i}",
            "speaker_id": "{k}",
            "chapter_id": "3",
            "file": "x.opus",
            "id": "{k}_3_{s}{i}",
        },
    ),
    "common-voice": (
        "sv",
        (
            ("sv-SE/train-00000-of-00013", "sv-SE/train/chunk-range-000000000-000001781/train-00000-of-00008"),
            ("sv-SE/validation-00000-of-00002",),
            ("sv-SE/test/chunk-range-000000000-000001583/test-00000-of-00008",),
        ),
        COMMON_VOICE | {"up_votes": "2", "locale": "{c}", "variant": ""},
    ),
}
LAYOUTS["librispeech-other"] = (
    "en",
    (*LAYOUTS["librispeech"][1][:2], ("all/test.other-00000-of-00001",)),
    LAYOUTS["librispeech"][2],
)


def sound(seconds: float = 0.3, seed: int = 0) -> bytes:
    made = io.BytesIO()
    soundfile.write(made, np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * 8000)), 8000, format="FLAC")
    return made.getvalue()


def write(path: Path, columns: dict[str, list]) -> None:
    """Write one shard with `datasets`, ten rows a row group, recordings as its feature `Audio`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = Dataset(pa.table(columns))
    for name in ("audio", "wav"):
        if name in columns:
            table = table.cast_column(name, Audio(decode=False))
    table.to_parquet(path, batch_size=10)


def lay_out(name: str, folder: Path) -> Path:
    """Write a copy of a corpus; each split's sentences are its own, and each of its files has an equal share."""
    language, files, texts = LAYOUTS[name]
    for split, shards in zip(SPLITS, files, strict=True):
        numbers = range(NUM[split])
        for at, shard in enumerate(shards):
            mine = numbers[at :: len(shards)]
            columns = {
                column: [
                    {"bytes": sound(seed=i), "path": f"{split}{i}.flac"}
                    if text is None
                    else text.format(s=split, i=i, k=i % 5, c=language)
                    for i in mine
                ]
                for column, text in texts.items()
            }
            write(folder / f"{shard}.parquet", columns)
    return folder


def change(path: Path, column: str, values: dict[int, object]) -> None:
    """Put other values into some rows of a shard."""
    table = pq.read_table(path).to_pydict()
    for row, value in values.items():
        table[column][row] = value
    write(path, table)


@pytest.mark.parametrize("name", HUB)
def test_every_row_opens_a_copy_laid_out_as_on_the_hub(name: str, tmp_path: Path) -> None:
    folder, language = lay_out(name, tmp_path / "copy"), LAYOUTS[name][0]
    corpus = open_corpus(f"{name}={folder}", tmp_path / "store", seed=0)
    assert (corpus.name, corpus.languages) == (name, (language,))
    assert corpus.has("asr", language)
    assert corpus.has("st", language) == (name == "covost2")
    assert corpus.problems == []
    everything = {split: corpus.utterances(language, split) for split in SPLITS}
    assert {split: len(utterances) for split, utterances in everything.items()} == NUM
    ids = [u.id for utterances in everything.values() for u in utterances]
    assert len(set(ids)) == len(ids)
    for split, utterances in everything.items():
        for utterance in utterances:
            number = int(spoken_key(utterance.text).split()[-1])
            assert split in utterance.text
            assert utterance.audio.read_bytes() == sound(seed=number)  # text and recording belong together
            assert utterance.duration_s == pytest.approx(0.3)
            if HUB[name].speaker:
                assert utterance.speaker.endswith(str(number % 5))
        numbers = [int(spoken_key(u.text).split()[-1]) for u in utterances]
        assert numbers != sorted(numbers)
    first = everything["train"][0]
    assert len(read(first.audio)) == pytest.approx(0.3 * 16000, abs=2)
    assert first.translations == ({"en": first.text.replace("Wort", "Word")} if name == "covost2" else {})
    assert first.text == first.text.lower() or not name.startswith("librispeech")
    assert corpus.utterances(language, "test-voices") == []
    assert corpus.utterances("xx", "test") == []
    with pytest.raises(OptionError, match="got -1"):
        corpus.utterances(language, "train", -1)


def test_the_table_is_whole() -> None:
    assert set(HUB) == set(LAYOUTS) < set(CORPORA)
    for spec in HUB.values():
        assert set(spec.configs) <= set(LANGUAGES)
        assert set(spec.files) == set(SPLITS)
        assert spec.licence
    assert HUB["fleurs"].configs | {"zh": "cmn_hans_cn", "no": "nb_no", "en": "en_us"} == HUB["fleurs"].configs
    assert len(HUB["covost2"].configs) == 21
    assert HUB["covost2"].configs["sv"] == "sv-SE_en"


def test_a_limit_is_a_prefix_and_reads_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BUFFER_ROWS", 8)
    folder, store = lay_out("librispeech", tmp_path / "copy"), tmp_path / "store"
    corpus = HubCorpus(HUB["librispeech"], store, folder=folder)
    few = corpus.utterances("en", "train", 5)
    assert len(few) == 5
    assert len(list(store.rglob("*.flac"))) == 5  # a recording is kept when it is asked for, not before
    more = corpus.utterances("en", "train", 40)
    assert more[:5] == few
    whole = corpus.utterances("en", "train")
    assert (whole[:40], len(whole)) == (more, 60)
    assert HubCorpus(HUB["librispeech"], tmp_path / "other", folder=folder).utterances("en", "train") == [
        replace(u, audio=tmp_path / "other" / u.audio.relative_to(store)) for u in whole
    ]
    assert {u.id.split("-")[0] for u in few} == {"en/19"}
    drawn = {int(u.text.split()[-1]) % 3 for u in few}
    assert len(drawn) > 1  # files take turns
    seeded = HubCorpus(HUB["librispeech"], store, seed=1, folder=folder)
    assert [u.id for u in seeded.utterances("en", "train")] != [u.id for u in whole]


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, store = lay_out("mls", tmp_path / "copy"), tmp_path / "store"
    before = HubCorpus(HUB["mls"], store, folder=folder).utterances("pl", "train", 20)

    def fail(*arguments: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(hub, "rows", fail)
    again = HubCorpus(HUB["mls"], store, folder=folder)
    assert again.utterances("pl", "train", 20) == before
    assert again.utterances("pl", "train", 7) == before[:7]


def test_no_sentence_and_no_id_is_in_two_splits(tmp_path: Path) -> None:
    folder, store = lay_out("covost2", tmp_path / "copy"), tmp_path / "store"
    train, selection = folder / "de_en/train-00000-of-00008.parquet", folder / "de_en/validation-00000-of-00008.parquet"
    change(train, "sentence", {0: "wort, TEST 3!", 1: "Wort selection 4"})
    change(train, "translation", {2: "word test 5"})  # the answer of a test sentence
    change(train, "id", {3: "common_voice_de_test6", 4: "common_voice_de_train10"})  # the second is row 5's own
    change(selection, "sentence", {0: "Wort test 7"})
    corpus = HubCorpus(HUB["covost2"], store, folder=folder)
    found = {split: corpus.utterances("de", split) for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [60 - 5, 14 - 1, 14]
    said = {
        split: {spoken_key(text) for u in utterances for text in (u.text, u.translations["en"])}
        for split, utterances in found.items()
    }
    assert not said["train"] & (said["selection"] | said["test"])
    assert not said["selection"] & said["test"]
    ids = [u.id for utterances in found.values() for u in utterances]
    assert len(set(ids)) == len(ids)
    problems = "\n".join(corpus.problems)
    assert "covost2, de-train: of 60 recordings read 4 left out: its id or sentence is in a split" in problems
    assert "covost2, de-train: of 60 recordings read 1 left out: its id came before" in problems
    assert "covost2, de-selection: of 14 recordings read 1 left out" in problems


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path: Path) -> None:
    folder, store = lay_out("covost2", tmp_path / "copy"), tmp_path / "store"
    train = folder / "de_en/train-00000-of-00008.parquet"
    change(train, "sentence", {0: "", 1: "das <unk> Wort", 2: "?!", 3: None})
    change(train, "translation", {4: " "})
    change(
        train,
        "audio",
        {
            5: {"bytes": sound(31), "path": "long.flac"},
            6: {"bytes": b"not audio", "path": "x.mp3"},
            7: {"bytes": None, "path": "elsewhere.mp3"},
            8: None,
        },
    )
    corpus = HubCorpus(HUB["covost2"], store, folder=folder)
    assert len(corpus.utterances("de", "train")) == 60 - 9
    expected = {
        "4 left out: it has no transcript": 1,
        "1 left out: it has no translation": 1,
        "1 left out: a recording lasts from 0.1 to 30 s": 1,
        "1 left out: a recording is audio that decodes": 1,
        "2 left out: it has no audio": 1,
    }
    assert {text: sum(text in problem for problem in corpus.problems) for text in expected} == expected
    assert len(list(store.rglob("audio/*/*"))) == len({u.audio for u in corpus.utterances("de", "train")})
    # A joined corpus tells what was left out after it was opened, too.
    joined = JoinedCorpus([HubCorpus(HUB["covost2"], tmp_path / "new", folder=folder), corpus])
    known = len(joined.problems)
    joined.parts["covost2-1"].utterances("de", "train")
    assert len(joined.problems) == 2 * known
    change(train, "sentence", dict.fromkeys(range(30), "-"))
    (folder / "de_en/train-00001-of-00008.parquet").unlink()
    with pytest.raises(
        DataError, match="none of 30 in train of de in covost2, 30 of them because: it has no transcript"
    ):
        HubCorpus(HUB["covost2"], store, folder=folder).utterances("de", "train")


def test_the_fingerprint_tells_row_seed_and_files(tmp_path: Path) -> None:
    folder, spec = lay_out("fleurs", tmp_path / "copy"), HUB["fleurs"]

    def fingerprint(spec: object = spec, seed: int = 0, folder: Path = folder) -> str:
        return HubCorpus(spec, tmp_path / "store", seed, folder).fingerprint

    before = fingerprint()
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert fingerprint(folder=moved) == before
    assert fingerprint(seed=1) != before
    assert fingerprint(spec=replace(spec, text="raw_transcription")) != before
    change(moved / "de_de/test/0000.parquet", "transcription", {0: "wort test 99"})
    assert fingerprint(folder=moved) != before


def test_mistakes_with_a_copy_are_told(tmp_path: Path) -> None:
    folder, store = lay_out("mls", tmp_path / "copy"), tmp_path / "store"
    with pytest.raises(DataError, match=r"laid out as on the hub, got .*nowhere"):
        open_corpus(f"mls={tmp_path / 'nowhere'}", store, seed=0)
    with pytest.raises(DataError, match=r"covost2 has files .*validation-\*.* a config such as ar_en, got 3 others"):
        open_corpus(f"covost2={folder}", store, seed=0)
    with pytest.raises(OptionError, match="as NAME=FOLDER"):
        open_corpus(f"pocket={folder}", store, seed=0)
    lacking = pq.read_table(folder / "polish/train-00000-of-00004.parquet").drop_columns(["transcript"])
    pq.write_table(lacking, folder / "polish/train-00000-of-00004.parquet")
    with pytest.raises(
        DataError, match=r"no transcript in polish/train-00000-of-00004.parquet .* which has audio, orig"
    ):
        open_corpus(f"mls={folder}", store, seed=0).utterances("pl", "train")
    (folder / "polish/test-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=r"can be read as Parquet, got polish/test-00000-of-00001.parquet"):
        open_corpus(f"mls={folder}", store, seed=0).utterances("pl", "test")


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").touch()
    assert absolute_source("mls=copy, mine.jsonl,pocket") == f"mls={tmp_path / 'copy'},{tmp_path / 'mine.jsonl'},pocket"


class Hub(BaseHTTPRequestHandler):
    """The answers of a hub that reading a data set takes."""

    root: Path
    gated = False
    requests: list[str]

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requests.append(path)
        if self.gated:
            self._answer(403, b"{}", X_Error_Code="GatedRepo")
        elif "/absent/" in path:
            self._answer(404, b"{}", X_Error_Code="RepoNotFound")
        elif f"/tree/{SHA}" in path:
            names = [file for file in (self.root / path.partition(f"{SHA}/")[2]).iterdir() if file.is_file()]
            self._answer_files(names)
        elif path.startswith("/api/datasets/"):
            names = [file.relative_to(self.root).as_posix() for file in self.root.rglob("*.parquet")]
            found = {
                "id": "owner/name",
                "sha": SHA,
                "siblings": [{"rfilename": name} for name in ["README.md", *names]],
            }
            self._answer(200, json.dumps(found).encode(), Content_Type="application/json")
        elif "/resolve/" not in path:
            self._answer(404)
        else:
            content = (self.root / path.partition(f"/{SHA}/")[2]).read_bytes()
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1]
            self._answer(206, part, Content_Range=f"bytes {first}-{last}/{len(content)}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer_files([self.root / name for name in body["paths"] if (self.root / name).is_file()])

    def _answer_files(self, paths: list[Path]) -> None:
        found = [
            {
                "type": "file",
                "path": path.relative_to(self.root).as_posix(),
                "size": path.stat().st_size,
                "oid": "0" * 40,
            }
            for path in paths
        ]
        self._answer(200, json.dumps(found).encode(), Content_Type="application/json")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on the loopback interface that has one data set under every name, and an empty local cache."""
    handler = type("Served", (Hub,), {"root": tmp_path / "copy", "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["librispeech", "covost2", "fleurs"])
def test_the_hub_and_a_copy_give_the_same_utterances(name: str, tmp_path: Path, served: type[Hub]) -> None:
    folder, language = lay_out(name, served.root), LAYOUTS[name][0]
    copy = HubCorpus(HUB[name], tmp_path / "of copy", folder=folder)
    remote = HubCorpus(HUB[name], tmp_path / "of hub")
    for split, limit in (("test", None), ("selection", 10), ("train", 25), ("train", None)):
        expected = copy.utterances(language, split, limit)
        moved = [replace(u, audio=tmp_path / "of hub" / u.audio.relative_to(tmp_path / "of copy")) for u in expected]
        assert remote.utterances(language, split, limit) == moved
        assert [u.audio.read_bytes() for u in moved] == [u.audio.read_bytes() for u in expected]
    assert remote.languages == copy.languages
    # What a store knows needs no hub.
    known = remote.utterances(language, "train")
    served.gated = True
    again = HubCorpus(HUB[name], tmp_path / "of hub")
    assert (again.fingerprint, again.utterances(language, "train")) == (remote.fingerprint, known)


def test_files_in_the_local_cache_are_not_fetched(tmp_path: Path, served: type[Hub]) -> None:
    folder = lay_out("mls", served.root)
    repo = tmp_path / "cache" / "datasets--facebook--multilingual_librispeech"
    shutil.copytree(folder, repo / "snapshots" / SHA)
    (repo / "refs").mkdir()
    corpus = HubCorpus(HUB["mls"], tmp_path / "store")
    assert len(corpus.utterances("pl", "train")) == 60
    assert [path for path in served.requests if "/resolve/" in path] == []


def test_a_hub_that_does_not_answer_is_told_and_the_cache_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        DataError, match=r"a hub that answers.*hf download --repo-type dataset --revision 2e83e6.*FOLDER"
    ):
        open_corpus("mls", tmp_path, seed=0)
    revision = HUB["mls"].revision
    shutil.copytree(
        lay_out("mls", tmp_path / "copy"),
        tmp_path / "cache/datasets--facebook--multilingual_librispeech/snapshots" / revision,
    )
    assert len(open_corpus("mls", tmp_path / "store", seed=0).utterances("pl", "train")) == 60


def test_refusals_of_the_hub_are_told(tmp_path: Path, served: type[Hub]) -> None:
    absent = replace(HUB["mls"], hub_id="absent/absent")
    with pytest.raises(DataError, match="exists on the hub, got absent/absent at 2e83"):
        HubCorpus(absent, tmp_path)
    served.gated = True
    with pytest.raises(DataError, match=r"gated data set asks for a login, got facebook/multi.*`hf auth login`"):
        HubCorpus(HUB["mls"], tmp_path)


def test_a_plan_knows_a_corpus_from_its_row_alone() -> None:
    corpus = unopened("covost2")
    assert corpus is not None
    assert (corpus.has("st", "fr"), corpus.has("asr", "fr"), corpus.has("st", "en")) == (True, True, False)
    assert unopened("pocket") is None
    assert unopened("covost2=copy") is None
