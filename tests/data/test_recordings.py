from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slamlab.data.grammar import spoken_key
from slamlab.data.recordings import ManifestCorpus
from slamlab.errors import DataError, OptionError

SPLITS = ("train", "selection", "test")


def record(path: Path, seconds: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=int(seconds * 8000)), 8000)


def rows(folder: Path, num: int = 60) -> list[dict[str, str]]:
    """Write `num` recordings: sentence k in German, then the same in French."""
    made = []
    for index in range(num):
        language, sentence = ("de", "fr")[index % 2], index // 2
        name = f"clips/{index}.wav"
        record(folder / name)
        row = {"audio": name, "text": f"{language} Satz {sentence}.", "language": language}
        made.append(row | {"translation": f"Sentence {sentence}.", "speaker": f"s{index % 3}"})
    return made


def write_jsonl(folder: Path, content: Sequence[Mapping[str, str | None]]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def write_csv(folder: Path, content: list[dict[str, str]]) -> Path:
    path = folder / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
    return path


def test_jsonl_and_csv_give_the_same_utterances(tmp_path: Path) -> None:
    content = rows(tmp_path)
    lines, table = ManifestCorpus(write_jsonl(tmp_path, content)), ManifestCorpus(write_csv(tmp_path, content))
    assert lines.languages == ("de", "fr")
    assert lines.problems == []
    for language in lines.languages:
        for split in SPLITS:
            assert lines.utterances(language, split) == table.utterances(language, split)
    utterance = next(u for u in lines.utterances("de", "train") if u.id == "clips/0.wav")
    assert (utterance.text, utterance.translations) == ("de Satz 0.", {"en": "Sentence 0."})
    assert (utterance.speaker, utterance.duration_s) == ("s0", pytest.approx(0.5))


def test_hashed_splits_keep_a_sentence_and_its_translation_together(tmp_path: Path) -> None:
    corpus = ManifestCorpus(write_jsonl(tmp_path, rows(tmp_path, 200)))
    sentences = {
        split: {spoken_key(u.translations["en"]) for code in ("de", "fr") for u in corpus.utterances(code, split)}
        for split in SPLITS
    }
    assert sum(map(len, sentences.values())) == 100  # a sentence in two splits would count twice
    assert 65 < len(sentences["train"]) < 92
    assert min(map(len, sentences.values())) > 2
    assert corpus.utterances("de", "test-voices") == []
    order = [u.id for u in corpus.utterances("de", "train")]
    assert [u.id for u in corpus.utterances("de", "train", 5)] == order[:5]
    assert order != sorted(order)
    with pytest.raises(OptionError, match="got -1"):
        corpus.utterances("de", "train", -1)


def test_given_splits_are_kept_and_repeated_sentences_leave_train(tmp_path: Path) -> None:
    content = rows(tmp_path, 40)
    for index, row in enumerate(content):
        row["split"] = "test-voices" if index < 4 else "train"
    content[5] |= {"text": "DE satz 0", "language": "de"}  # recording 0 says this in test-voices
    corpus = ManifestCorpus(write_jsonl(tmp_path, content))
    assert len(corpus.utterances("de", "test-voices")) == len(corpus.utterances("fr", "test-voices")) == 2
    assert "clips/5.wav" not in {u.id for u in corpus.utterances("de", "train")}
    assert len(corpus.problems) == 1
    assert "line 6: left out of train" in corpus.problems[0]


def test_tasks_follow_the_columns(tmp_path: Path) -> None:
    content = rows(tmp_path, 20)
    content[0].pop("translation")
    content.append({"audio": "clips/0.wav", "id": "again", "text": "Hello there.", "language": "en"})
    content[2]["translation_es"] = "Frase uno."
    corpus = ManifestCorpus(write_jsonl(tmp_path, content))
    assert [corpus.has("asr", code) for code in ("en", "de", "fr", "it")] == [True, True, True, False]
    assert [corpus.has("st", code) for code in ("en", "de", "fr", "it")] == [False, False, True, False]
    spoken = {u.id: u for split in SPLITS for u in corpus.utterances("de", split)}
    assert spoken["clips/2.wav"].translations == {"en": "Sentence 1.", "es": "Frase uno."}


def test_bad_files_are_left_out_up_to_a_tenth(tmp_path: Path) -> None:
    content = rows(tmp_path, 20)
    (tmp_path / "clips/3.wav").write_text("not audio")
    (tmp_path / "clips/4.wav").unlink()
    corpus = ManifestCorpus(write_jsonl(tmp_path, content))
    assert len(corpus.problems) == 2
    assert "line 4" in corpus.problems[0]
    assert "3.wav" in corpus.problems[0]
    kept = [u.id for code in corpus.languages for split in SPLITS for u in corpus.utterances(code, split)]
    assert len(kept) == 18
    record(tmp_path / "clips/5.wav", seconds=31)
    with pytest.raises(DataError, match="3 bad of 20"):
        ManifestCorpus(tmp_path / "manifest.jsonl")


def test_fingerprint_covers_manifest_seed_and_audio(tmp_path: Path) -> None:
    manifest = write_jsonl(tmp_path, rows(tmp_path, 10))
    before = ManifestCorpus(manifest).fingerprint
    assert ManifestCorpus(manifest).fingerprint == before
    assert ManifestCorpus(manifest, seed=1).fingerprint != before
    record(tmp_path / "clips/3.wav", seconds=0.6)
    changed = ManifestCorpus(manifest).fingerprint
    assert changed != before
    manifest.write_text(manifest.read_text().replace("Satz 3", "Satz drei"))
    assert ManifestCorpus(manifest).fingerprint != changed


def refused(manifest: Path) -> str:
    with pytest.raises(DataError) as caught:
        ManifestCorpus(manifest)
    return str(caught.value)


def test_broken_rows_are_named_by_line(tmp_path: Path) -> None:
    content = rows(tmp_path, 4)

    def with_change(**changed: str | None) -> str:
        return refused(write_jsonl(tmp_path, [*content[:2], content[2] | changed, content[3]]))

    message = with_change(text=None)
    assert "no text on line 3" in message
    assert "audio, language, translation, speaker" in message
    assert "'xx' on line 3" in with_change(language="xx")
    assert "'xx' on line 3" in with_change(translation_xx="?")
    assert "'dev' on line 3" in with_change(split="dev")
    assert "none on line 1" in with_change(split="test")
    assert "'../outside.wav' on line 3" in with_change(audio="../outside.wav")
    assert "/etc/hosts" in with_change(audio="/etc/hosts")
    assert "lines 1 and 3" in with_change(audio="clips/0.wav")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    content = rows(folder, 2)
    record(tmp_path / "secret.wav")
    (folder / "clips/1.wav").unlink()
    (folder / "clips/1.wav").symlink_to(tmp_path / "secret.wav")
    assert "line 2" in refused(write_jsonl(folder, content))


def test_broken_manifests(tmp_path: Path) -> None:
    content = rows(tmp_path, 2)
    manifest = write_jsonl(tmp_path, content)
    manifest.write_text(manifest.read_text() + '{"audio": "x.wav", \n')
    assert "line 3 of manifest.jsonl" in refused(manifest)
    manifest.write_text("[1, 2]\n")
    assert "a list" in refused(manifest)
    manifest.write_text("\n")
    assert "none in manifest.jsonl" in refused(manifest)
    manifest.write_bytes("audio: Grüße".encode("latin-1"))
    assert "UTF-8" in refused(manifest)
    table = write_csv(tmp_path, content)
    table.write_text(table.read_text() + "x.wav,one,two,three,four,five\n")
    assert "6 for 5 columns on line 4" in refused(table)
    table.write_text('audio,text,language\nclips/0.wav,"Satz,de\n')
    assert "line 2 of manifest.csv" in refused(table)
    table.write_text("audio,transcript,language\nclips/0.wav,Satz,de\n")
    assert "which has audio, transcript, language" in refused(table)
    table.write_text("audio,text,language\n")
    assert "none in manifest.csv" in refused(table)
    assert "nowhere.csv" in refused(tmp_path / "nowhere.csv")
    (tmp_path / "manifest.xlsx").write_text("")
    assert "manifest.xlsx" in refused(tmp_path / "manifest.xlsx")
