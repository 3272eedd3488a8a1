"""A sweep over a SpeechLLM that `transformers` has: found inside its wrapper, pruned, healed, scored, put back."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from real_trials import finish
from speechllms import RATE, make_speechllm, waveforms
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, Qwen2AudioForConditionalGeneration
from typer.testing import CliRunner

import slamlab
from slamlab.__main__ import _unpruned, app
from slamlab.errors import AssetError, ModelError
from slamlab.export.answers import read_answers
from slamlab.model.transcribe import most_tokens
from slamlab.report.page import render
from slamlab.report.results import write_results
from slamlab.sweep import launch
from slamlab.sweep.bases import check_given
from slamlab.sweep.campaign import Campaign
from slamlab.sweep.cells import Cell
from slamlab.sweep.plan import estimate
from slamlab.sweep.results import collect
from slamlab.sweep.store import Store
from slamlab.sweep.trial import Bench
from slamlab.zoo.profiles import PROFILES
from slamlab.zoo.towers import is_speechllm

SPLITS = ["train"] * 4 + ["selection"] * 10 + ["test"] * 10
HEAL = {"num_steps": 2, "batch_size": 2, "r": 4, "num_train": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a SpeechLLM of 4 decoder layers."""
    return make_speechllm("qwen2_audio", tmp_path_factory.mktemp("wrapper") / "tiny-audio")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return a manifest of noise that is said to be words."""
    where = tmp_path_factory.mktemp("recordings")
    rows = []
    for i, (split, wave) in enumerate(
        zip(SPLITS, waveforms(*[0.6 + 0.05 * i for i in range(len(SPLITS))]), strict=True)
    ):
        soundfile.write(where / f"{i}.wav", wave, RATE)
        rows.append({"audio": f"{i}.wav", "text": f"word {chr(97 + i)} and more", "language": "en", "split": split})
    path = where / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _prepare(folder, manifest, store, **changed):
    given = {
        "name": "own", "families": ["qwen"], "scales": [], "encoders": [], "tasks": ["asr"], "languages": ["en"],
        "data": str(manifest), "store": store, "heal": HEAL, "num_selection": None, "num_test": None, "max_heals": 1,
    }  # fmt: skip
    return launch.prepare(PROFILES["pocket"], model=str(folder), **(given | changed))


@pytest.fixture(scope="module")
def swept(folder, manifest, tmp_path_factory):
    """Sweep the SpeechLLM and return the settings, and where the report lies."""
    tmp_path = tmp_path_factory.mktemp("swept")
    settings, corpus = _prepare(folder, manifest, tmp_path / "runs")
    (cell,) = settings.cells
    assert (cell.family, cell.scale, cell.encoder) == (str(folder), "given", str(folder))
    store = Store(settings.store)
    (planned, *_) = estimate(settings, store).cells
    assert (planned.origin, planned.num_layers) == ("given", 4)
    launch.check_assets(settings)
    campaign, bench, kinds = Campaign(settings, store), Bench(settings), []
    while (request := campaign.next()) is not None:
        campaign.begin(request)
        campaign.complete(request, finish(bench.run(request))[0])
        kinds.append(request.kind)
    assert campaign.finished
    assert kinds[:2] == ["base", "probe"]
    results = collect(campaign, command="python sweeps/max_prune.py", corpus_name=corpus.name, problems=())
    write_results(results, tmp_path / "report")
    render(results, settings.store, tmp_path / "report")
    return settings, tmp_path / "report"


def test_a_speechllm_is_swept_as_a_whole_from_its_folder_to_its_report(folder, swept):
    settings, report = swept
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    (answer,) = results["cells"]
    assert answer["num_layers"] == 4
    assert answer["base"]["origin"] == "given"
    # Random weights understand nothing: whatever was removed, the report must not promise anything.
    assert answer["verdict"] in ("undecided", "none")
    assert "tiny-audio · its own encoder · English" in (report / "report.md").read_text()
    probes = [probe for probe in results["probes"] if probe["status"] == "complete"]
    assert probes
    kept = list((settings.store / "checkpoints").iterdir())
    assert kept, "noise in, noise out: what is as bad as the unpruned model may win"
    for checkpoint in kept:
        stock = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
        assert stock.config.text_config.num_hidden_layers == len(stock.base_model.language_model.layers) < 4
        assert slamlab.load(checkpoint).config.encoder == str(folder)


def _run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "250", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    return done


@torch.no_grad()
def _stock_answer(folder, recording, words, num_tokens):
    """Return what stock `transformers` says to a recording and a request, with nothing of ours."""
    model = Qwen2AudioForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "audio"}, {"type": "text", "text": words}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    audio, rate = soundfile.read(recording, dtype="float32")
    inputs = processor(text=[text], audio=[audio], sampling_rate=rate, return_tensors="pt")
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokens = model.generate(**inputs, max_new_tokens=num_tokens, do_sample=False, eos_token_id=end)
    return processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_its_answer_is_exported_and_heard(swept, folder, manifest, tmp_path):
    settings, report = swept
    (cell,) = json.loads((report / "results.json").read_text(encoding="utf-8"))["cells"]
    exported = _run("export", report, "--store", settings.store, "--out", tmp_path / "all", "--no-measure")
    out = tmp_path / "all" / "tiny-audio-asr-en"
    assert exported.stdout == f"{out}\n", "named by the last part of a path, once"
    facts = json.loads((out / "card.json").read_text(encoding="utf-8"))
    assert facts["removed"] == {"start": cell["start"], "depth": cell["max_depth"], "num_layers": 4}
    assert facts["heal"]["train"]["num_steps"] == HEAL["num_steps"]
    assert facts["scores"][-1]["pruned"] == cell["pruned"]["value"]
    checkpoint = AutoModelForSeq2SeqLM.from_pretrained(settings.store / cell["pruned"]["checkpoint"])
    stock = AutoModelForSeq2SeqLM.from_pretrained(out)
    for (name, expected), weight in zip(checkpoint.state_dict().items(), stock.state_dict().values(), strict=True):
        assert torch.equal(weight, expected), name
    recordings = [manifest.parent / f"{i}.wav" for i in (0, 9)]
    (line,) = _run("transcribe", "--model", out, "--store", tmp_path, recordings[0]).stdout.splitlines()
    assert line
    asked = {
        "Transcribe English:": ("transcribe", "--model", out),
        "Translate English to German:": ("translate", "--to", "de", "--model", out),
        "Translate English to Japanese:": ("translate", "--to", "ja", "--language", "en", "--model", folder),
    }
    for words, command in asked.items():
        lines = _run(*command, "--store", tmp_path, "--json", *recordings).stdout.splitlines()
        for recording, told in zip(recordings, map(json.loads, lines), strict=True):
            num_tokens = most_tokens(soundfile.info(recording).duration)
            expected = _stock_answer(command[-1], recording, words, num_tokens)
            assert told["text"] and expected.startswith(told["text"]), "a loop is cut short"
            assert (told["language"], told.get("target_language", "")) == (
                "en",
                "" if len(command) == 3 else command[2],
            )


def test_the_unpruned_model_is_found_to_measure_beside(swept, folder):
    settings, report = swept
    answers = read_answers(report, settings.store)
    assert [_unpruned(answer, settings.store) for answer in answers] == [folder]


def test_a_speechllm_is_no_base_of_other_names(folder, manifest, tmp_path):
    with pytest.raises(ModelError, match="pass it as --model"):
        given = {"encoders": ["whisper-base"], "scales": ["mini"], "families": ["qwen"], "base": str(folder)}
        launch.prepare(
            PROFILES["pocket"], name="own", tasks=["asr"], languages=["en"], data=str(manifest), heal=HEAL,
            store=Path(tmp_path / "runs"), num_selection=None, num_test=None, **given,
        )  # fmt: skip


def test_a_language_model_alone_is_no_base(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert not is_speechllm(tmp_path)
    with pytest.raises(AssetError, match=r"holds slam\.json"):
        check_given(tmp_path, Cell(family="llama", scale="1b", encoder="whisper-base", task="asr", language="en"))
