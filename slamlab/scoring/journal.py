"""Answers as they are made: a file that only grows, so that a killed evaluation goes on at the next utterance.

One JSON object a line: id, hypothesis, why decoding ended. A line is there when it ends in a line break: one that a
killed process left torn does not count, and is cut off by the next that appends. Appending is locked and skips what
another process has answered meanwhile, so however many work on one file, every utterance is in it once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

from slamlab.errors import StoreError


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
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Answer]:
        """Return the answers so far by utterance id, in the order in which they were made.

        Raises:
            StoreError: A whole line is not an answer: the file was not written here.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        return self._parse(content[: content.rfind(b"\n") + 1])

    def append(self, answers: Iterable[Answer]) -> dict[str, Answer]:
        """Write answers whose utterances have none yet, and return all that the file then holds, as :meth:`read`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, or its process dies
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            known = self._parse(content[:whole])
            new = {answer.id: answer for answer in answers if answer.id not in known}
            if whole < len(content):
                file.truncate(whole)
            file.write(b"".join(json.dumps(asdict(one), ensure_ascii=False).encode() + b"\n" for one in new.values()))
            file.flush()
            os.fsync(file.fileno())
        return known | new

    def _parse(self, content: bytes) -> dict[str, Answer]:
        try:
            answers = [Answer(**json.loads(line)) for line in content.split(b"\n") if line]
            if not all(isinstance(text, str) for answer in answers for text in astuple(answer)):
                raise ValueError("an answer is of texts")
        except (ValueError, TypeError) as error:
            raise StoreError(
                "a journal of answers is written by slamlab alone", f"{self.path} ({error})", "remove the file"
            ) from None
        return {answer.id: answer for answer in answers}
