"""Voxtral against the stock wrapper, with the processor's own requests; its tokenizer needs `mistral-common`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from speechllms import RATE, waveforms
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

import slamlab
from slamlab.export.folder import write_checked
from slamlab.model.speechllm import SpeechLLM
from slamlab.model.surgery import LayerBlock, without
from slamlab.model.transcribe import most_tokens, transcribe
from slamlab.zoo.encoders import SpeechEncoder, load_encoder

pytest.importorskip("mistral_common")
NUM_SPECIAL, AUDIO = 40, 24
SPECIALS = {
    **{0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]"},
    **{7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]"},
    **{13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]"},
    **{19: "[TOOL_CONTENT]", 20: "[ARGS]", 21: "[CALL_ID]", AUDIO: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"},
}
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def make_voxtral(folder: Path) -> Path:
    """Save a random Voxtral of 4 decoder layers, and its processor over a tokenizer of single bytes."""
    folder.mkdir()
    vocabulary = [
        {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)
    ]
    size = NUM_SPECIAL + len(vocabulary)
    tokens = [(i, SPECIALS.get(i, f"<SPECIAL_{i}>")) for i in range(NUM_SPECIAL)]
    content = {
        "vocab": vocabulary,
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in tokens],
        "config": {
            "pattern": r"\S+|\s+",
            "num_vocab_tokens": len(vocabulary),
            "default_vocab_size": size,
            "default_num_special_tokens": NUM_SPECIAL,
            "version": "v11",
        },
        "audio": {
            "sampling_rate": RATE,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
            "chunk_length_s": 30.0,
        },
    }
    (folder / "tekken.json").write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(folder, tokenizer_type="mistral")
    extractor = WhisperFeatureExtractor(feature_size=16, sampling_rate=RATE, chunk_length=30)
    VoxtralProcessor(extractor, tokenizer).save_pretrained(folder)
    config = VoxtralConfig(
        audio_config=SIZES | {"num_mel_bins": 16, "max_source_positions": 1500},
        text_config={
            **SIZES,
            "model_type": "llama",
            "vocab_size": size,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "initializer_range": 0.2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 11,
        },
        audio_token_id=AUDIO,
    )
    torch.manual_seed(0)
    model = VoxtralForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" not in name and weight.dim() > 1:
                weight.mul_(8)
        model.lm_head.weight[: NUM_SPECIAL + ord(" ")] = 0  # so that it writes letters
        model.lm_head.weight[NUM_SPECIAL + ord("~") :] = 0
    model.save_pretrained(folder)
    return folder


class World:
    """A Voxtral without one of its layers, as a folder: the stock wrapper and processor, ours, and our encoder."""

    def __init__(self, folder: Path) -> None:
        whole = slamlab.load(make_voxtral(folder / "tiny-voxtral"))
        self.folder = folder / "pruned"
        whole.with_decoder(without(whole.decoder, LayerBlock(1, 1))).save(self.folder)
        self.stock: Any = VoxtralForConditionalGeneration.from_pretrained(self.folder).eval()
        self.processor: Any = AutoProcessor.from_pretrained(self.folder)
        model = slamlab.load(self.folder)
        assert isinstance(model, SpeechLLM)
        self.model = model
        self.encoder: SpeechEncoder = load_encoder(model.encoder_name, folder / "cache")

    def asked(self, recording: Path, task: str, language: str | None) -> dict[str, Any]:
        """Return what the stock processor makes of a recording and a request."""
        if task == "asr":
            return dict(
                self.processor.apply_transcription_request(
                    audio=str(recording), model_id="tiny", language=language, format="wav"
                )
            )
        words = {"type": "text", "text": "Translate German to French:"}
        turn = {"role": "user", "content": [{"type": "audio", "path": str(recording)}, words]}
        return dict(self.processor.apply_chat_template([turn]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("voxtral"))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / f"{i}.wav" for i in range(2)]
    for path, waveform in zip(paths, waveforms(1.0, 2.3), strict=True):
        soundfile.write(path, waveform, RATE)
    return paths


REQUESTS = [("asr", "de", "en"), ("st", "de", "fr")]


@pytest.mark.parametrize(("task", "language", "target"), REQUESTS)
@torch.no_grad()
def test_logits_are_those_of_the_stock_wrapper(
    world: World, recordings: list[Path], task: str, language: str, target: str
) -> None:
    heard = [soundfile.read(path, dtype="float32")[0] for path in recordings]
    frames = world.encoder.encode(heard)
    prompt = world.model.prompt(task, language, target)
    assert frames[0].shape == (375, 64) and frames[0].dtype == np.float16
    for own, path in zip(frames, recordings, strict=True):
        inputs = world.asked(path, task, language)
        ids = inputs["input_ids"][0].tolist()
        assert ids == [*prompt.before, *[AUDIO] * 375, *prompt.after]
        (ours,) = world.model.prefixes([own], [prompt])
        projector = world.stock.model.multi_modal_projector
        handle = projector.register_forward_pre_hook(lambda _, args: (args[0].half().float(),))
        try:
            expected = world.stock(**inputs).logits[0, 375:]
        finally:
            handle.remove()
        logits = world.model.decoder(inputs_embeds=ours[None]).logits[0, 375:]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("task", "language", "target"), REQUESTS)
def test_what_is_heard_is_what_the_stock_wrapper_says(
    world: World, recordings: list[Path], task: str, language: str, target: str
) -> None:
    heard = transcribe(world.model, world.encoder, recordings, task=task, language=language, target_language=target)
    for path, transcript in zip(recordings, heard, strict=True):
        inputs = world.asked(path, task, language)
        caps = most_tokens(soundfile.info(path).duration)
        tokens = world.stock.generate(**inputs, max_new_tokens=caps, do_sample=False)
        said = world.processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert transcript.text and said.strip().startswith(transcript.text), "a loop is cut short"


def test_a_language_that_it_has_no_code_for_is_left_to_it(world: World, recordings: list[Path]) -> None:
    named, left = world.model.prompt("asr", "de"), world.model.prompt("asr", "haw")
    assert "lang:de" in world.model.tokenizer.decode(named.after)
    ids = world.asked(recordings[0], "asr", None)["input_ids"][0].tolist()
    assert ids == [*left.before, *[AUDIO] * 375, *left.after]


def test_it_is_exported_with_its_decoder(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    known = write_checked(
        world.folder, tmp_path / "out", precision=None, max_shard_size="20KB", cache=tmp_path / "cache"
    )
    assert (known["architecture"], known["num_layers"]) == ("VoxtralForConditionalGeneration", 3)
    decoder: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "decoder").eval()
    ids = torch.arange(3, 20)[None] + NUM_SPECIAL
    with torch.no_grad():
        torch.testing.assert_close(decoder(input_ids=ids).logits, world.stock(input_ids=ids).logits)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out" / "decoder")
    assert tokenizer.decode(tokenizer.encode("half past"), skip_special_tokens=True) == "half past"
