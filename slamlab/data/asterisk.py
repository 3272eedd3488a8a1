"""Recorded human speech from Debian's packages: the voice prompts of the Asterisk telephone exchange.

About 250 prompts of three words or more in each of five languages, one professional speaker a language, 16 kHz G.722.
A prompt id names the same sentence in every language, so the prompts are also a small corpus of speech translation.
Licences: CC-BY-SA-3.0 and CC-BY-3.0 (see the packages' copyright files). The Spanish texts lack accents.

    apt-get install asterisk-core-sounds-{en,es,fr,it,ru} asterisk-core-sounds-{en,es,fr,it,ru}-g722
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from slamlab.data import audio
from slamlab.data.grammar import spoken_key
from slamlab.data.utterance import Utterance
from slamlab.errors import DataError, OptionError

PROMPT_LANGUAGES = ("en", "es", "fr", "it", "ru")
DEBIAN_FOLDER = Path("/usr/share")
MIN_WORDS = 3


class AsteriskCorpus:
    """Telephone prompts as a :class:`~slamlab.data.utterance.Corpus`; there is no split `test-voices`.

    A prompt goes to train, selection or test, 70/15/15, by a hash of its id. A prompt is left out if its text is a note
    on a sound, such as [beep], if an earlier prompt says the same in some language (else a sentence could be in two
    splits), or if it has no English text to translate into.

    Args:
        folder: Holds `asterisk/sounds/<language>_*/` and `doc/asterisk-core-sounds-<language>/`; by default where
            Debian installs them.

    Raises:
        DataError: If no language has both its texts and its sounds: names the packages to install.
    """

    name = "asterisk"

    def __init__(self, folder: Path | None = None) -> None:
        folder = Path(folder) if folder is not None else DEBIAN_FOLDER
        texts = {code: _texts(folder, code) for code in PROMPT_LANGUAGES}
        # A folder of sounds is named <language>_<country>_<sex>_<speaker>; a package holds one.
        sounds = {code: sorted((folder / "asterisk" / "sounds").glob(f"{code}_*_*")) for code in PROMPT_LANGUAGES}
        self.languages = tuple(code for code in PROMPT_LANGUAGES if texts[code] and sounds[code])
        if not self.languages or not texts["en"]:
            rule = "the corpus asterisk needs prompts with their English texts"
            names = "asterisk-core-sounds-{en,es,fr,it,ru}"
            raise DataError(rule, f"none in {folder}", f"run `apt-get install {names} {names}-g722`")

        digest = hashlib.sha256()
        problems: list[str] = []
        self._utterances: dict[tuple[str, str], list[Utterance]] = {}
        for prompt, spoken in _distinct(texts):
            for code in self.languages:
                if not _is_long(spoken.get(code, "")):
                    continue
                voice = sounds[code][0]
                path = voice / f"{prompt}.g722"
                try:
                    duration_s = audio.check(path)
                except DataError as error:
                    problems.append(f"{code} prompt {prompt}: {error}")
                    continue
                digest.update(
                    f"{code}/{prompt}/{_split_of(prompt)}/{sorted(spoken.items())}\n".encode() + path.read_bytes()
                )
                utterance = Utterance(
                    id=f"{code}-{prompt}",
                    audio=path,
                    duration_s=duration_s,
                    language=code,
                    text=spoken[code],
                    translations={other: text for other, text in spoken.items() if other != code},
                    speaker=voice.name,
                )
                self._utterances.setdefault((code, _split_of(prompt)), []).append(utterance)
        for utterances in self._utterances.values():
            utterances.sort(key=lambda utterance: hashlib.sha256(utterance.id.encode()).digest())
        self.fingerprint = digest.hexdigest()
        self.problems: Sequence[str] = problems

    def has(self, task: str, language: str) -> bool:
        """Say whether `task` (`asr`, or `st` into English) can be learned for speech in `language`."""
        return language in self.languages and (task == "asr" or (task == "st" and language != "en"))

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        """Return the first `limit` utterances of a split, in a fixed shuffled order.

        Raises:
            OptionError: If `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise OptionError("a limit is 0 or more", limit, "choose a larger limit")
        return self._utterances.get((language, split), [])[:limit]


def _split_of(prompt: str) -> str:
    percent = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100
    return "train" if percent < 70 else "selection" if percent < 85 else "test"


def _texts(folder: Path, code: str) -> dict[str, str]:
    """Return prompt id to text; empty if the package is not there."""
    path = folder / "doc" / f"asterisk-core-sounds-{code}" / f"core-sounds-{code}.txt.gz"
    if not path.is_file():
        return {}
    texts: dict[str, str] = {}
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError("the prompt texts are gzipped UTF-8", f"{path} ({error})", "reinstall the package") from None
    for line in lines:
        prompt, colon, text = line.partition(":")
        if not colon or line.startswith(";"):  # a comment
            continue
        text = text.strip().removeprefix(f"{prompt}: ").strip('"“” ')  # one Russian line repeats its id
        if text and not re.search(r"[][<>(){}]", text):
            texts.setdefault(prompt, text)
    return texts


def _distinct(texts: dict[str, dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield prompt id and its text by language, for prompts worth hearing that repeat no earlier one."""
    seen: set[tuple[str, str]] = set()
    for prompt in sorted(texts["en"]):
        spoken = {code: texts[code][prompt] for code in PROMPT_LANGUAGES if prompt in texts[code]}
        keys = {(code, spoken_key(text)) for code, text in spoken.items()}
        if seen.isdisjoint(keys) and any(_is_long(text) for text in spoken.values()):
            seen |= keys
            yield prompt, spoken


def _is_long(text: str) -> bool:
    return len(spoken_key(text).split()) >= MIN_WORDS
