"""The card: parsed as the hub does, with the numbers of the results, and whatever texts come in from outside."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from slamlab.export.answers import read_answers
from slamlab.export.card import card_facts, escape, render_card
from slamlab.model.slam import SlamConfig

HOSTILE = '"\n---\n# <b>x</b> | [a](javascript:b) `c` *d* _e_ : {{ 7 * 7 }} \\ $ ~ !\u2028- é'
WRITTEN = {
    "dtype": "float32",
    "num_layers": 7,
    "num_parameters": 1234,
    "weight_bytes": 5000,
    "decoder_bytes": 4000,
    "architecture": None,
    "logits_distance": 0.0,
}


def _config(**changed):
    known = {"family": "qwen", "scale": "mini", "encoder": "whisper-base"} | changed
    return SlamConfig(**known, encoder_width=24, stack=5, projector_hidden=16)


def _card(answer, measured=None, base=None, command="python -m slamlab export X --out Y", **changed):
    facts = card_facts(answer, _config(**changed), WRITTEN, command=command, base=base)
    json.dumps(facts, allow_nan=False)
    text = render_card(facts, measured)
    assert text.startswith("---\n")
    front, _, body = text[4:].partition("\n---\n")
    assert ModelCard(text).data.to_dict() == ModelCard(f"---\n{front}\n---\n").data.to_dict()
    return yaml.safe_load(front), body


def test_a_control_stands_beside_the_scores(make_report):
    def control(results):
        cell = results["cells"][0]
        cell["control"] = {
            "receiver": 3,
            "splits": {"test": {"baseline": {**cell["baseline"], "value": 0.0321}, "pruned": {**cell["pruned"]}}},
        }
        cell["control"]["splits"]["test"]["pruned"] |= {"relative_degradation": 0.4567, "ci95": [0.1, 0.8]}

    report, store, _ = make_report(change=control)
    controlled, without = read_answers(report, store, "asr en")[0], read_answers(report, store, "st de")[0]
    assert "| asr | en | test | wer | 3.21 % | +45.7 % (+10.0 % to +80.0 %) |" in _card(controlled)[1]
    assert "nothing removed" not in _card(without)[1]


def test_the_hub_and_people_read_the_numbers_of_the_results(make_report):
    report, store, results = make_report()
    (answer,) = read_answers(report, store, "st de")
    data, body = _card(answer)
    cell = results["cells"][2]
    assert data["base_model"] == ["openai/whisper-base"]
    assert data["license"] == "apache-2.0"
    assert data["language"] == ["de", "en"]
    assert data["metrics"] == ["bleu"]
    assert {"layer-pruning", "speech-translation"} <= set(data["tags"])
    found = {one["dataset"]["split"]: one["metrics"][0]["value"] for one in data["model-index"][0]["results"]}
    assert found == {"test": cell["pruned"]["value"], "test-voices": cell["test_voices"]["pruned"]["value"]}
    removed = f"lost {cell['max_depth']} of its 12 layers:\n{cell['start']} to {cell['start'] + cell['max_depth'] - 1},"
    assert removed in body
    low, high = cell["pruned"]["ci95"]
    row = next(line for line in body.splitlines() if line.startswith("| st | de | test | 300 |"))
    assert f"| {cell['baseline']['value']:.1f} (" in row
    assert f"| {cell['pruned']['value']:.1f} |" in row
    assert f"{100 * cell['pruned']['relative_degradation']:+.1f} % ({100 * low:+.1f} % to {100 * high:+.1f} %)" in row
    assert f"    {cell['pruned']['signature']}\n" in body
    sweep = results["sweep"]
    for text in (f"    {sweep['command']}\n", f"commit: {sweep['commit']}", "seed 0", "num&#95;steps 200", "torch 2."):
        assert text in body
    assert "adapter of the healing is merged" in body


def test_a_checkpoint_alone_claims_nothing(checkpoints, tmp_path):
    (answer,) = read_answers(checkpoints["qwen"], tmp_path)
    data, body = _card(answer, family="qwen", scale="7b")
    assert data["base_model"] == ["Qwen/Qwen2.5-7B", "openai/whisper-base"]
    assert data["license"] == "unknown"
    assert not {"metrics", "language", "model-index"} & data.keys()
    for text in ("Licence: unknown: see the base", "None are known here.", "Not measured.", "has 28 layers."):
        assert text in body


def test_a_licence_is_that_of_the_bases_own_card(checkpoints, tmp_path):
    (answer,) = read_answers(checkpoints["qwen"], tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Base\n")
    assert _card(answer, base=base)[0]["license"] == "cc-by-4.0"
    (base / "README.md").write_text("# No front matter\n")
    assert _card(answer, base=base)[0]["license"] == "unknown"


def test_texts_from_outside_break_nothing(make_report):
    def card_of(text):
        def change(results):
            results["cells"][0].update(reason=text, language=text, verdict=text)
            results["cells"][0]["pruned"].update(signature=text, verdict=text)
            results["sweep"].update(command=text, commit=text, versions={text: text})
            results["sweep"]["corpus"].update(name=text, fingerprint=text)
            results["sweep"]["heal"]["mini"][text] = text

        report, store, _ = make_report(change=change)
        return _card(read_answers(report, store)[0], encoder=text, command=text)

    data, body = card_of(HOSTILE)
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == " ".join(HOSTILE.split())
    assert "language" not in data
    assert _structure(body) == _structure(card_of("plain words")[1])
    assert "7 &#42; 7" in body, "a template in a text is not run"


def _structure(body):
    """Return what a Markdown reader makes of a card, without the texts."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    return [(part.type, part.tag) for token in tokens for part in (token, *(token.children or ()))]


def test_an_escape_keeps_letters_and_numbers():
    assert escape("Größe 3.5 % (a-b) 日本") == "Größe 3.5 % (a-b) 日本"
    assert escape("a_b|c\n# d") == "a&#95;b&#124;c &#35; d"


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_was_measured_is_told_as_ratios_and_on_a_gpu_as_times(checkpoints, tmp_path, on_gpu):
    (answer,) = read_answers(checkpoints["qwen"], tmp_path)
    run = {"quantity": "tokens per second", "batch_size": 16, "ratios": [2.0, 1.5, 1.0, 2.5]}
    measured = {
        "device": "cpu",
        "dtype": "float32",
        "num_threads": 1,
        "audio_s": 10.0,
        "num_tokens": 40,
        "parameters": {"unpruned": 2000, "pruned": 1000},
        "checkpoint_bytes": {"unpruned": 8e9, "pruned": 4e6},
        "memory": "resident memory of the process",
        "peak_memory_bytes": {"unpruned": 9e9, "pruned": 5e9},
        "memory_before_loading_bytes": {"unpruned": 1e9, "pruned": 1e9},
        "runs": [run | ({"unpruned": 100.0, "pruned": 175.0} if on_gpu else {})],
    }
    _, body = _card(answer, measured)
    times = " 100 | 175 |" if on_gpu else ""
    assert f"| tokens per second | 16 | 1.75 | 1.00 to 2.50 | 4 |{times}\n" in body
    assert "| weights in files | 8.00 GB | 4.0 MB |" in body
    assert "| parameters | 2000 | 1000 |" in body
