"""Audio files to text: recordings cut at their silences, encoded, answered in batches, and put together again.

An encoder hears 30 s at most (Whisper's window), and a model answers for what it was trained on: sentences. So a longer
recording is cut. Within a window's last seconds there is nearly always a pause, and a cut in a pause goes through no
word; a voice activity detector would find the same pauses, at the price of another model.

:func:`answer` is how a sweep decodes too: what a person hears here is what was scored there.

Shape letters: N samples, T encoder frames, W encoder width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from slamlab.data import audio
from slamlab.data.batching import Prompt
from slamlab.errors import DataError, OptionError
from slamlab.model.decode import Stopped, generate
from slamlab.model.slam import SlamModel
from slamlab.zoo.encoders import SpeechEncoder
from slamlab.zoo.languages import LANGUAGES, find_language
from slamlab.zoo.profiles import Profile

MAX_CHUNK_S = 30.0
SEARCH_S, PAUSE_S = 6.0, 0.1
"""How far before the end of a window a cut is looked for, and the length of the pause that should hold it: shorter than
most between words, longer than the closure of a plosive (about 0.05 s), which is inside of one."""
SHORTEST_S = 0.1
"""What is left after the last cut may be shorter, and gets silence up to this: the projector of a SpeechLLM joins
frames, and of less none would be left."""
SPARE_TOKENS = 8
"""Tokens allowed beyond the rate of speech, so that a very short recording can still be answered."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What was heard between two cuts.

    Attributes:
        start_s: From the start of the recording.
        end_s: Likewise.
        text: The answer.
        stopped: Why it ended: by itself (`eos`), at the most tokens that so much speech may take, or in a loop.
    """

    start_s: float
    end_s: float
    text: str
    stopped: Stopped


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was heard in a file; its segments touch, and cover all of it."""

    audio: Path
    segments: tuple[Segment, ...]
    text: str


def made_for(folder: Path, what: Literal["tasks", "languages"]) -> list[str]:
    """Return the tasks or languages that a model's card says it was made for; nothing where there is none.

    Args:
        folder: Of a model; `card.json` in it, where there is one, lists them.
        what: Which of the two.
    """
    try:
        return list(map(str, json.loads((folder / "card.json").read_text(encoding="utf-8"))[what]))
    except (OSError, ValueError, KeyError, TypeError):
        return []


def known_language(folder: Path) -> str:
    """Return the language that a model's card names.

    Raises:
        OptionError: There is no card, or it names none, or several.
    """
    languages = made_for(folder, "languages")
    if len(languages) != 1:
        known = f"{folder} was made for {', '.join(languages) or 'languages that it does not name'}"
        raise OptionError(f"a language is named, as {known}", "none", "pass --language")
    return languages[0]


def pick_device(name: str = "") -> torch.device:
    """Return a device by torch's name for it; by no name, a GPU where there is one, else the CPU.

    Raises:
        OptionError: There is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):  # the latter from a torch without CUDA
        is_there = False
    else:
        is_there = device.type in ("cpu", "cuda")
    if not is_there:
        raise OptionError("a device is cpu, or cuda on a machine that has it", name, "leave --device out")
    return device


def most_tokens(duration_s: float, tokens_per_s: float = Profile.decode_tokens_per_s) -> int:
    """Return the most tokens that the answer to so much speech may have."""
    return int(duration_s * tokens_per_s) + SPARE_TOKENS


def answer(
    model: SlamModel, frames: Sequence[np.ndarray], prompt: Prompt, caps: Sequence[int], *, num_beams: int = 1
) -> list[tuple[str, Stopped]]:
    """Return what a model answers to a batch of speech, and why each answer ended.

    Args:
        model: In evaluation mode.
        frames: Encoder frames [T, W] of each row.
        prompt: What is asked of all.
        caps: Most tokens of each answer.
        num_beams: 1 decodes greedily.
    """
    with torch.inference_mode():
        generated = generate(
            model.decoder,
            model.prefixes(frames, [prompt] * len(frames)),
            caps,
            eos_token_id=model.tokenizer.eos_token_id,
            pad_token_id=model.tokenizer.pad_token_id or 0,
            batch_size=len(frames),
            num_beams=num_beams,
        )
    return [(model.tokenizer.decode(row.tokens, skip_special_tokens=True).strip(), row.stopped) for row in generated]


def cut(waveform: np.ndarray, rate_hz: int, max_s: float = MAX_CHUNK_S) -> list[tuple[int, int]]:
    """Return where to cut a recording: half-open pieces of `max_s` at most, that touch and cover it.

    Each piece but the last ends in the middle of the quietest stretch of `PAUSE_S` in the last `SEARCH_S` of its
    window, the latest of equally quiet ones.

    Args:
        waveform: Shape (N,), N > 0.
        rate_hz: Samples a second.
        max_s: Longest piece in seconds, more than `SEARCH_S`.
    """
    longest, searched, pause = (int(seconds * rate_hz) for seconds in (max_s, SEARCH_S, PAUSE_S))
    pieces, begin = [], 0
    while len(waveform) - begin > longest:
        first = begin + longest - searched
        power = np.square(waveform[first : begin + longest], dtype=np.float64)
        sums = np.cumsum(np.concatenate([[0.0], power]))
        energy = sums[pause:] - sums[:-pause]  # of the stretch that starts at each sample
        end = first + len(energy) - 1 - int(np.argmin(energy[::-1])) + pause // 2
        pieces.append((begin, end))
        begin = end
    return [*pieces, (begin, len(waveform))]


def transcribe(
    model: SlamModel,
    encoder: SpeechEncoder,
    paths: Sequence[Path],
    *,
    task: str,
    language: str,
    target_language: str = "en",
    num_beams: int = 1,
    batch_size: int = 16,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Transcript]:
    """Yield what a model hears in audio files, in their order.

    Args:
        model: In evaluation mode. In float32 an answer does not depend on its batch.
        encoder: The model's own, by name.
        paths: Files of any length that :func:`slamlab.data.audio.read` decodes.
        task: `asr` or `st`.
        language: Code of the language spoken.
        target_language: Code of the language written, where the task is `st`.
        num_beams: 1 decodes greedily.
        batch_size: Pieces answered together.
        say: Takes a line of progress before each batch but the first.

    Raises:
        OptionError: A language is not known, or not one that this model translates into.
        DataError: A file is missing, is not audio, is damaged, or lasts less than 0.1 s. Missing files are told before
            any work is done.
    """
    if task == "st":
        _check_target(model, find_language(language).code, find_language(target_language).code)
    written = find_language(target_language if task == "st" else language)
    prompt = model.prompt(task, language, target_language)
    for path in paths:
        if not path.is_file():
            raise DataError("a recording is a file", path, "check the path")
    joined = "" if written.unit == "character" else " "
    rate = encoder.sample_rate_hz
    waiting: list[tuple[Path, list[tuple[int, int]]]] = []
    pieces: list[np.ndarray] = []
    done = 0

    def answered() -> Iterator[Transcript]:
        nonlocal done
        said: list[tuple[str, Stopped]] = []
        for begin in range(0, len(pieces), batch_size):
            if done or begin:
                say(f"{done} of {len(paths)} files, {begin} of the next {len(pieces)} pieces")
            batch = pieces[begin : begin + batch_size]
            caps = [most_tokens(len(piece) / rate) for piece in batch]
            said += answer(model, encoder.encode(batch), prompt, caps, num_beams=num_beams)
        answers = iter(said)
        for path, spans in waiting:
            segments = tuple(
                Segment(start_s=start / rate, end_s=end / rate, text=text, stopped=stopped)
                for (start, end), (text, stopped) in zip(spans, answers, strict=False)
            )
            yield Transcript(audio=path, segments=segments, text=joined.join(s.text for s in segments if s.text))
        done += len(waiting)
        waiting.clear()
        pieces.clear()

    for path in paths:  # several short files share a batch; of a long one no more than its own pieces are in memory
        audio.check(path, max_s=float("inf"))
        waveform = audio.read(path, rate)
        waiting.append((path, cut(waveform, rate)))
        pieces += [_at_least(waveform[start:end], int(SHORTEST_S * rate)) for start, end in waiting[-1][1]]
        if len(pieces) >= batch_size:
            yield from answered()
    yield from answered()


def _check_target(model: SlamModel, language: str, target_language: str) -> None:
    if language == target_language:
        raise OptionError("a translation is into another language than the one spoken", language, "transcribe it")
    if target_language not in model.target_languages:
        names = ", ".join(f"{LANGUAGES[code].name} ({code})" for code in model.target_languages)
        raise OptionError(
            f"this model was trained to translate into {names} alone",
            target_language,
            "leave --to out, or take a SpeechLLM of `transformers`, which can be asked for any language",
        )


def _at_least(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Return a waveform with silence after it, where it is shorter than that."""
    return np.pad(waveform, (0, max(0, num_samples - len(waveform))))
