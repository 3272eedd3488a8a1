"""A pruned SpeechLLM of `transformers` as an export: the stock wrapper's, its decoder's and our own logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig
from speechllms import KINDS, make_speechllm, waveforms
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, PreTrainedModel

import slamlab
from slamlab.errors import ModelError
from slamlab.export import measure as module
from slamlab.export.answers import read_answers
from slamlab.export.export import export
from slamlab.export.folder import TOLERANCE, write_checked
from slamlab.export.measure import measure
from slamlab.model.surgery import LayerBlock, without


class World:
    """A SpeechLLM's folder, and the checkpoint that a heal would leave: without a layer, and not quite the same."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.unpruned, self.pruned = kind, make_speechllm(kind, folder / "tiny-audio"), folder / "pruned"
        model = slamlab.load(self.unpruned)
        model = model.with_decoder(without(model.decoder, LayerBlock(1, 1)))
        with torch.no_grad():
            for weight in (*model.projector.parameters(), *model.decoder.base_model.layers[1].parameters()):
                weight.mul_(1.1)
        model.save(self.pruned)


@pytest.fixture(scope="module", params=sorted(KINDS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with KINDS[request.param].installed():
        yield World(request.param, tmp_path_factory.mktemp("export"))


def write(world: World, folder: Path, **changed: Any) -> dict[str, Any]:
    folder.mkdir()
    options: dict[str, Any] = {"precision": None, "max_shard_size": "20KB", "cache": folder.parent / "cache"}
    return write_checked(world.pruned, folder, **options | changed)


@torch.no_grad()
def stock_logits(folder: Path, waveform: np.ndarray, words: str = "yes", dtype: Any = "auto") -> torch.Tensor:
    """Return what stock `transformers`, with nothing of ours, makes of a folder's model, processor and a recording."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder, dtype=dtype).eval()
    processor: Any = AutoProcessor.from_pretrained(folder)
    text = f"{processor.audio_token}{words}"
    inputs = processor(text=[text], audio=[waveform], sampling_rate=16_000, return_tensors="pt")
    return model(**inputs).logits


@torch.no_grad()
def text_logits(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(3, 43)[None]).logits


def test_stock_transformers_loads_what_was_healed_and_its_decoder_alone(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    known = write(world, folder)
    (waveform,) = waveforms(1.3)
    expected = stock_logits(world.pruned, waveform)
    assert torch.equal(stock_logits(folder, waveform), expected)
    assert not torch.allclose(expected, stock_logits(world.unpruned, waveform), atol=1e-2)
    stock: Any = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    assert known["architecture"] == type(stock).__name__
    assert stock.config.text_config.num_hidden_layers == known["num_layers"] == 3
    assert len(stock.base_model.language_model.layers) == 3
    # The decoder answers to text as it does inside; see the exception in slamlab/model/speechllm.py for the scaling.
    decoder: Any = AutoModelForCausalLM.from_pretrained(folder / "decoder").eval()
    inside = text_logits(stock) / getattr(decoder.config, "logits_scaling", 1.0)
    torch.testing.assert_close(text_logits(decoder), inside, rtol=1e-5, atol=1e-5)
    assert decoder.generation_config.eos_token_id == stock.generation_config.eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(folder / "decoder")
    assert tokenizer.decode(tokenizer.encode("half past")) == "half past"
    for part in (folder, folder / "decoder"):
        shards = {path.name for path in part.glob("*.safetensors")}
        index = json.loads((part / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == shards
        assert len(shards) > 2
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert known["weight_bytes"] == sum(sizes), "a second copy of the decoder is told by itself"
    assert known["decoder_bytes"] == sum(path.stat().st_size for path in (folder / "decoder").glob("*.safetensors"))
    loaded, checkpoint = slamlab.load(folder), slamlab.load(world.pruned)
    assert loaded.config == checkpoint.config
    for name, weight in checkpoint.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_in_bf16_every_configuration_says_so_and_logits_are_near(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    known = write(world, folder, precision="bf16", with_decoder=False)
    assert not (folder / "decoder").exists()
    assert (known["dtype"], known["decoder_bytes"]) == ("bfloat16", 0)
    assert 0 < known["logits_distance"] <= TOLERANCE
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"
    (waveform,) = waveforms(1.3)
    expected = stock_logits(world.pruned, waveform)
    changed = (stock_logits(folder, waveform, dtype=torch.float32) - expected).norm() / expected.norm()
    assert 0 < changed <= TOLERANCE
    assert known["weight_bytes"] < 0.6 * sum(path.stat().st_size for path in world.pruned.glob("*.safetensors"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World("qwen2_audio", tmp_path_factory.mktemp("one"))


def test_a_tower_that_does_not_come_back_the_same_fails(
    one: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no part of the model in memory: only the stock wrapper's logits show it."""
    save = PreTrainedModel.save_pretrained

    def save_wrongly(self: Any, *arguments: Any, **options: Any) -> None:
        tower = getattr(self.base_model, "audio_tower", None)
        with torch.no_grad():
            if tower is not None:
                tower.conv1.weight.mul_(1.01)
        save(self, *arguments, **options)
        with torch.no_grad():
            if tower is not None:
                tower.conv1.weight.div_(1.01)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_wrongly)
    with pytest.raises(
        ModelError, match=r"loaded by transformers' Qwen2AudioForConditionalGeneration gives the logits"
    ):
        write(one, tmp_path / "out")


def test_its_card_tells_how_transformers_loads_it(one: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_TOKENS", 2)
    monkeypatch.setattr(module, "AUDIO_S", 1.0)
    monkeypatch.setattr(module, "LIMIT_S", 0.1)
    monkeypatch.setattr(module, "BATCH_SIZES", (1, 2))
    # In this one, which test_measure.py does not do: it takes half a minute to start two.
    monkeypatch.setattr(module, "_in_a_process_of_its_own", lambda job, *arguments: job(*arguments))
    (answer,) = read_answers(one.pruned, tmp_path)
    export(answer, tmp_path / "out", cache=tmp_path / "cache", command="slamlab export", base=one.unpruned)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert "library_name: transformers\n" in card
    assert "\n# tiny-audio\n" in card
    load = "\n    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration\n"
    assert load in card
    assert 'AutoModelForCausalLM.from_pretrained("FOLDER/decoder")' in card
    assert "loaded by name" not in card
    assert str(tmp_path) not in card, "folders of this machine are nobody's business"
    found = json.loads((tmp_path / "out" / "measurements.json").read_text())
    models = {name: slamlab.load(folder) for name, folder in (("unpruned", one.unpruned), ("pruned", one.pruned))}
    assert found["parameters"] == {name: model.num_parameters() for name, model in models.items()}
    assert found["checkpoint_bytes"]["pruned"] < found["checkpoint_bytes"]["unpruned"]
    quantities = ["time to first token", "tokens per second", "real-time factor"]
    assert [run["quantity"] for run in found["runs"]] == quantities * 2, "its tower is at hand"


def test_the_adapter_of_a_published_granite_is_part_of_the_unpruned_model(tmp_path: Path) -> None:
    with KINDS["granite_speech"].installed():
        world = World("granite_speech", tmp_path)
        adapted: Any = AutoModelForSeq2SeqLM.from_pretrained(world.unpruned)
        adapted.add_adapter(LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"))
        adapted.save_pretrained(str(tmp_path / "adapted"))
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(tmp_path / "adapted" / name, world.unpruned)
        (tmp_path / "base").mkdir()
        write_checked(
            world.unpruned, tmp_path / "base", precision=None, max_shard_size="2GB", cache=tmp_path, with_decoder=False
        )
        assert not list((tmp_path / "base").glob("adapter*"))


def test_both_are_measured_on_as_many_frames_as_the_tower_makes(one: World, tmp_path: Path) -> None:
    asked: list[int] = []

    def frames(model: Any, num_frames: int, batch_size: int) -> list[np.ndarray]:
        asked.append(num_frames)
        raise torch.OutOfMemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_frames", frames)
        patch.setattr(module, "_in_a_process_of_its_own", lambda *arguments: (arguments[-1], 0))
        found = measure(one.unpruned, one.pruned, tmp_path)
    assert asked == [250], "10 s at 25 a second, as two of Whisper's frames are joined"
    assert found["peak_memory_bytes"] == {"unpruned": 250, "pruned": 250}
    assert found["runs"] == []
