"""What is written is the model: for stock transformers too, in shards, in another type, and when things go wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import slamlab
from slamlab.errors import ModelError, OptionError, StoreError
from slamlab.export.folder import TOLERANCE, check_new, check_shard_size, whole_folder, write_checked


@pytest.fixture
def write(tmp_path):
    def run(checkpoint, name="out", precision=None, max_shard_size="2GB"):
        folder = tmp_path / name
        folder.mkdir()
        known = write_checked(
            checkpoint, folder, precision=precision, max_shard_size=max_shard_size, cache=tmp_path / "cache"
        )
        return folder, known

    return run


def _stock_logits(decoder_folder):
    decoder = AutoModelForCausalLM.from_pretrained(decoder_folder, dtype="auto").eval()
    with torch.inference_mode():
        return decoder(input_ids=torch.arange(3, 23)[None]).logits


@pytest.mark.parametrize("architecture", ["qwen", "llama"])
@pytest.mark.parametrize("max_shard_size", ["2GB", "20KB"])
def test_both_ways_to_load_give_the_checkpoints_logits(write, checkpoints, architecture, max_shard_size):
    folder, known = write(checkpoints[architecture], max_shard_size=max_shard_size)
    assert torch.equal(_stock_logits(folder / "decoder"), _stock_logits(checkpoints[architecture] / "decoder"))
    before, after = slamlab.load(checkpoints[architecture]), slamlab.load(folder)
    example = before.example(torch.randn(33, 24).numpy(), "the red house", task="asr", language="en")
    with torch.inference_mode():
        assert torch.equal(before([example]), after([example]))
    assert after.tokenizer.decode(after.tokenizer.encode("eine Katze")) == "eine Katze"
    assert (known["dtype"], known["logits_distance"]) == ("float32", 0.0)
    assert known["num_layers"] == {"qwen": 3, "llama": 2}[architecture]
    assert known["num_parameters"] == before.num_parameters()
    shards = sorted((folder / "decoder").glob("*.safetensors"))
    if max_shard_size == "2GB":
        assert [shard.name for shard in shards] == ["model.safetensors"]
    else:
        assert len(shards) > 2
        index = json.loads((folder / "decoder" / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    stored = {name for shard in shards for name in load_file(shard)}
    assert ("lm_head.weight" in stored) == (architecture == "llama"), "tied embeddings are stored once"
    assert not any("lora" in name for name in stored)
    assert not list(folder.rglob("adapter*"))


def test_another_type_is_near_the_checkpoint_and_said_in_the_configuration(write, checkpoints):
    folder, known = write(checkpoints["llama"], precision="bf16")
    assert known["dtype"] == "bfloat16"
    assert 0 < known["logits_distance"] <= TOLERANCE
    assert json.loads((folder / "decoder" / "config.json").read_text())["dtype"] == "bfloat16"
    reference = slamlab.load(checkpoints["llama"]).in_precision("bf16")
    pairs = zip(reference.state_dict().values(), slamlab.load(folder).state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    _, whole = write(checkpoints["llama"], "whole")
    assert known["weight_bytes"] < 0.65 * whole["weight_bytes"]


@pytest.mark.parametrize("place", [".", "decoder"])
def test_an_adapter_that_is_not_merged_is_refused(write, checkpoints, tmp_path, place):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(checkpoints["qwen"], checkpoint)
    (checkpoint / place / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter merged into its weights"):
        write(checkpoint)


def test_what_does_not_come_back_the_same_fails(write, checkpoints, monkeypatch):
    save = PreTrainedModel.save_pretrained

    def save_wrongly(self, *arguments, **options):
        with torch.no_grad():
            self.model.norm.weight[0] += 1e-3
        save(self, *arguments, **options)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_wrongly)
    with pytest.raises(ModelError, match="gives the logits of the one that was written, got other logits"):
        write(checkpoints["qwen"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError("a", "b", "c")])
def test_an_interruption_leaves_nothing(tmp_path, error):
    def interrupted():
        with whole_folder(tmp_path / "deep" / "out") as draft:
            (draft / "half").write_text("a model")
            raise error

    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ModelError):
        interrupted()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path):
    def write_on_a_full_disk():
        with whole_folder(tmp_path / "out"):
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"can be written, got .*out .*No space left"):
        write_on_a_full_disk()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_and_readable_by_others(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out") as draft:
        (draft / "file").touch()
        assert not any((tmp_path / "out").iterdir())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="new or empty folder"):
            check_new(taken)


@pytest.mark.parametrize("size", ["", "2", "0GB", "2 GB", "two GB", "-1MB"])
def test_a_shards_size_that_is_none_is_refused(size):
    with pytest.raises(OptionError, match="shard's size"):
        check_shard_size(size)
    check_shard_size("500MB")
