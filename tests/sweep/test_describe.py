"""A base made of joined corpora: real speech in two manifests, the real encoder, two layers, a few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from slamlab.data.grammar import sentences
from slamlab.data.joined import JoinedCorpus
from slamlab.data.synthesis import speak
from slamlab.model.slam import CONFIG_FILE
from slamlab.sweep import launch
from slamlab.sweep.bases import CARD_FILE
from slamlab.sweep.describe import train_and_describe
from slamlab.zoo import decoders, profiles
from slamlab.zoo.profiles import PROFILES, BaseRecipe, TrainRecipe

SIZES = {"train": 2, "selection": 10, "test": 10}
STEPS = TrainRecipe(num_steps=2, batch_size=4, peak_lr=1e-3)


def manifest_of(folder: Path, language: str, texts: list[dict[str, str]]) -> Path:
    """Speak sentences, and list them."""
    folder.mkdir()
    rows = []
    for i, text in enumerate(texts):
        split = next(name for name, end in (("train", 2), ("selection", 12), ("test", 22)) if i < end)
        waveform, rate_hz = speak(text[language], language, rate_wpm=200, pitch=50)
        soundfile.write(folder / f"{i}.wav", waveform, rate_hz)
        translation = {"translation": text["en"]} if language != "en" else {}
        rows.append({"audio": f"{i}.wav", "text": text[language], "language": language, "split": split, **translation})
    path = folder / f"{language}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("num_corpora", "language"), [(1, "all"), (2, "all"), (2, "de")])
def test_a_base_is_scored_on_each_corpus_that_taught_it(
    num_corpora: int, language: str, tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(decoders.MINI_SHAPE, "num_hidden_layers", 2)
    pocket = replace(
        PROFILES["pocket"], base={"*": BaseRecipe(text=STEPS, speech=STEPS, num_train=4, projector_hidden=16)}
    )
    monkeypatch.setitem(profiles.PROFILES, "pocket", pocket)
    drawn = sentences(44, 3)
    sources = [manifest_of(tmp_path / "en", "en", drawn[:22]), manifest_of(tmp_path / "de", "de", drawn[22:])]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cache").symlink_to(speech)
    settings, corpus = launch.prepare(
        pocket, name="base", families=["qwen"], scales=["mini"], encoders=["whisper-base"], tasks=["all"],
        languages=[language], data=",".join(map(str, sources[:num_corpora])), store=tmp_path / "runs", heal={},
        num_selection=None, num_test=None, seed=0,
    )  # fmt: skip
    said: list[str] = []
    out = tmp_path / "base"
    train_and_describe(settings, corpus, out, said.append)

    assert (out / CONFIG_FILE).is_file()
    card = json.loads((out / CARD_FILE).read_text())
    cells = {name: {cell.split(maxsplit=2)[2] for cell in scores} for name, scores in card["scores"].items()}
    if num_corpora == 1:
        assert cells == {"recordings": {"asr en"}} and card["corpora"] == {"recordings": corpus.fingerprint}
    elif language == "de":
        assert cells == {"recordings-2": {"asr de", "st de-en"}} and card["languages"] == ["de"]
        assert "--language de " in (out / "README.md").read_text()
    else:
        assert isinstance(corpus, JoinedCorpus)
        assert cells == {"recordings-1": {"asr en"}, "recordings-2": {"asr de", "st de-en"}}
        assert card["corpora"] == {name: part.fingerprint for name, part in corpus.parts.items()}
    scores = [splits["test"] for of_corpus in card["scores"].values() for splits in of_corpus.values()]
    assert {score["num_utterances"] for score in scores} == {10}
    text = (out / "README.md").read_text()
    assert (
        all(f"| {name} | asr" in text for name in cells) and f"--data {','.join(['MANIFEST'] * num_corpora)} " in text
    )

    before = (out / CARD_FILE).read_bytes()
    train_and_describe(settings, corpus, out, said.append)  # nothing is trained again
    assert (out / CARD_FILE).read_bytes() == before

    if num_corpora == 1:
        train_and_describe(settings, corpus, tmp_path / "second", said.append, init=out)
        second = json.loads((tmp_path / "second" / CARD_FILE).read_text())
        assert second["init"] == card and card["init"] is None
        first, then = (line.strip() for line in (tmp_path / "second" / "README.md").read_text().splitlines()[-2:])
        assert first.startswith("python sweeps/train_base.py FOLDER-BEFORE ") and "--init" not in first
        assert then.startswith("python sweeps/train_base.py FOLDER ") and then.endswith(" --init FOLDER-BEFORE")
