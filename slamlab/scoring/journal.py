"""Answers as they are made: a file that only grows, so that a killed evaluation goes on at the next utterance.

One JSON object a line: id, hypothesis, why decoding ended, and a CRC-32 of these. A line is there when it ends in a
line break: one that a killed process left torn does not count, and is cut off by the next that appends. A whole line
that is damaged does not count either: it is told, its utterance is answered again, and the next that appends drops it.
Appending is locked and skips what another process has answered meanwhile, so however many work on one file, every
utterance is in it once.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from slamlab.disk import at_once


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to one utterance, as it was decoded; `stopped` says why decoding ended."""

    id: str
    hypothesis: str
    stopped: str = ""


class Journal:
    """The answers of one model to the utterances of one split.

    Args:
        path: The file; need not exist, nor its folder.
        say: Takes a line about what is damaged.
        patiently: Does something, again where the file system goes away meanwhile.
    """

    def __init__(
        self,
        path: Path,
        say: Callable[[str], None] = lambda line: None,
        patiently: Callable[[Callable[[], Any]], Any] = at_once,
    ) -> None:
        self.path, self._say, self._patiently = path, say, patiently

    def read(self) -> dict[str, Answer]:
        """Return the answers so far by utterance id, in the order in which they were made."""
        try:
            content = self._patiently(self.path.read_bytes)
        except FileNotFoundError:
            return {}
        return self._parse(content)[0]

    def append(self, answers: Iterable[Answer]) -> dict[str, Answer]:
        """Write answers whose utterances have none yet, and return all that the file then holds, as :meth:`read`."""
        made = list(answers)
        known: dict[str, Answer] = self._patiently(lambda: self._append(made))
        return known

    def _append(self, answers: Iterable[Answer]) -> dict[str, Answer]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, or its process dies
            content = file.read()
            known, num_damaged = self._parse(content)
            new = {answer.id: answer for answer in answers if answer.id not in known}
            kept = {} if num_damaged else known  # which stand in the file as they are
            file.seek(0 if num_damaged else content.rfind(b"\n") + 1)
            file.write(b"".join(map(_line, [one for id_, one in (known | new).items() if id_ not in kept])))
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        return known | new

    def _parse(self, content: bytes) -> tuple[dict[str, Answer], int]:
        """Return the answers of whole lines, and how many such lines are damaged."""
        answers: dict[str, Answer] = {}
        num_damaged = 0
        for line in content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]:
            answer = _answer(line)
            if answer is None:
                num_damaged += 1
            else:
                answers.setdefault(answer.id, answer)
        if num_damaged:
            self._say(f"{num_damaged} of the answers in {self.path} are damaged: asked again where they are wanted")
        return answers, num_damaged


def whole_lines(content: bytes) -> bytes:
    """Return the content of a journal without the lines that are damaged or torn."""
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    return b"".join(line + b"\n" for line in lines if _answer(line) is not None)


def _line(answer: Answer) -> bytes:
    told: dict[str, Any] = {**asdict(answer), "crc": _crc(answer)}
    return json.dumps(told, ensure_ascii=False).encode() + b"\n"


def _answer(line: bytes) -> Answer | None:
    """Return the answer of a line, None where it is damaged; a line without a checksum is believed."""
    try:
        told = json.loads(line)
        crc = told.pop("crc", None)
        answer = Answer(**told)
        whole = all(isinstance(text, str) for text in astuple(answer)) and crc in (None, _crc(answer))
    except (ValueError, TypeError, AttributeError):
        return None
    return answer if whole else None


def _crc(answer: Answer) -> int:
    return zlib.crc32("\0".join(astuple(answer)).encode())
