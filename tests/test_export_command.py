"""`python -m slamlab export`, `transcribe` and `translate` as somebody with a report and a recording meets them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import slamlab
from slamlab.__main__ import app
from slamlab.data.pocket import PocketCorpus
from slamlab.model.slam import SlamModel
from slamlab.model.surgery import LayerBlock, without
from slamlab.model.transcribe import transcribe
from slamlab.sweep.bases import SHIPPED
from slamlab.zoo.encoders import load_encoder

REPORT = Path(__file__).parents[1] / "reports" / "max_prune-qwen"
BASE = SHIPPED / "qwen-mini-whisper-base"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with the shipped report, and a store in which each answer is the base without a layer."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(REPORT, folder / "report")
    base = slamlab.load(BASE).float()
    pruned = SlamModel(base.config, without(base.decoder, LayerBlock(5, 1)), base.tokenizer)
    pruned.projector.load_state_dict(base.projector.state_dict())
    for cell in json.loads((REPORT / "results.json").read_text(encoding="utf-8"))["cells"]:
        pruned.save(folder / "runs" / cell["pruned"]["checkpoint"])
    return folder


@pytest.fixture(scope="module")
def recordings(world):
    return [str(one.audio) for one in PocketCorpus(world / "pocket").utterances("en", "test", 2)]


@pytest.fixture
def run(world, monkeypatch):
    monkeypatch.chdir(world)
    torch.set_num_threads(1)
    return lambda *arguments: CliRunner().invoke(app, [*arguments], env={"COLUMNS": "250", "NO_COLOR": "1"})


def _refused(done, text):
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(".")
    assert text in line


def test_an_exported_winner_is_heard_without_naming_its_language(run, world, recordings):
    done = run("export", "report", "--out", "one", "--cell", "asr en", "--no-measure", "--max-shard-size", "500KB")
    assert done.exit_code == 0, done.output
    assert done.stdout == "one\n"
    written = {path.name for path in (world / "one").iterdir()}
    assert written == {"README.md", "card.json", "decoder", "projector.safetensors", "slam.json"}
    assert len(list((world / "one" / "decoder").glob("model-*-of-*.safetensors"))) > 1
    command = "python -m slamlab export report --out one --cell 'asr en' --max-shard-size 500KB"
    assert f"    {command}\n" in (world / "one" / "README.md").read_text(encoding="utf-8")
    cell = json.loads((REPORT / "results.json").read_text(encoding="utf-8"))["cells"][0]
    encoder = load_encoder("whisper-base", world / "runs" / "cache" / "models")
    model = slamlab.load(world / "runs" / cell["pruned"]["checkpoint"])
    expected = [one.text for one in transcribe(model, encoder, list(map(Path, recordings)), task="asr", language="en")]
    assert all(expected)
    heard = run("transcribe", "--model", "one", *recordings)
    assert heard.exit_code == 0, heard.output
    assert heard.stdout.splitlines() == expected
    assert heard.stderr == ""
    told = run("translate", "--model", "one", "--language", "de", "--json", recordings[0])
    assert told.stderr == "note: one was healed for asr, not for st.\n"
    line = json.loads(told.stdout)
    assert (line["file"], line["task"], line["language"], line["target_language"]) == (recordings[0], "st", "de", "en")
    (segment,) = line["segments"]
    assert segment["start_s"] == 0 < segment["end_s"]
    assert segment["text"] == line["text"]


def test_a_report_gives_a_folder_for_each_answer_and_nothing_is_written_over(run, world):
    done = run("export", "report", "--out", "all", "--no-measure", "--dtype", "bf16")
    assert done.exit_code == 0, done.output
    names = [f"qwen-mini-whisper-base-{cell}" for cell in ("asr-en", "asr-de", "st-de")]
    assert sorted(path.name for path in (world / "all").iterdir()) == sorted(names)
    assert done.stdout.split() == [f"all/{name}" for name in names]
    assert slamlab.load(world / "all" / names[0]).dtype == torch.bfloat16
    _refused(run("export", "report", "--out", "all", "--no-measure"), "new or empty folder, got all")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("export", "nowhere", "--out", "x"), "a report's folder"),
        (("export", "report", "--out", "x", "--store", "elsewhere"), "lies in the store"),
        (("export", "report", "--out", "x", "--cell", "asr fr"), "'asr fr'"),
        (("export", "report", "--out", "x", "--max-shard-size", "much"), "shard's size"),
        (("export", "report", "--out", "x", "--push", "me/model"), "--push takes one model, got 3 models"),
        (("export", "report", "--out", "x", "--cell", "st", "--push", "model"), "OWNER/NAME"),
        (("transcribe", "--model", "nowhere", "--language", "en", "a.wav"), "holds slam.json"),
        (("transcribe", "--model", str(BASE), "--language", "en", "none.wav"), "a recording is a file, got none.wav"),
        (("transcribe", "--model", str(BASE), "--language", "english", "none.wav"), "write en for English"),
        (("transcribe", "--model", str(BASE), "a.wav"), "pass --language"),
        (("transcribe", "--model", str(BASE), "--language", "en", "--device", "tpu9", "a.wav"), "tpu9"),
        (("transcribe", "--model", str(BASE), "--language", "en", "--device", "cuda:77", "a.wav"), "cuda:77"),
        (("transcribe", "--model", str(BASE), "--language", "en", "--beams", "0", "a.wav"), "1 or more"),
        (("translate", "--model", str(BASE), "--language", "de", "--to", "fr", "a.wav"), "English (en) alone, got fr"),
        (("translate", "--model", str(BASE), "--language", "de", "--to", "French", "a.wav"), "write fr for French"),
        (("translate", "--model", str(BASE), "--language", "en", "a.wav"), "than the one spoken, got en"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, world, arguments, text):
    _refused(run(*arguments), text)
    assert not (world / "x").exists()
