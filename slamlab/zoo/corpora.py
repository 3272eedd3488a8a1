"""Corpora: how each is opened, by name or by the path of a manifest. One row a corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from slamlab.errors import OptionError

if TYPE_CHECKING:
    from slamlab.data.utterance import Corpus


def _pocket(store: Path, seed: int) -> Corpus:
    from slamlab.data.pocket import PocketCorpus

    return PocketCorpus(store / "pocket", seed)


def _asterisk(store: Path, seed: int) -> Corpus:
    from slamlab.data.asterisk import AsteriskCorpus

    return AsteriskCorpus()  # recordings stay where Debian put them, and their split is fixed


def _wordnet(store: Path, seed: int) -> Corpus:
    from slamlab.data.wordnet import WordnetCorpus

    return WordnetCorpus(store / "wordnet", seed)


CORPORA: dict[str, Callable[[Path, int], Corpus]] = {
    "pocket": _pocket,
    "asterisk": _asterisk,
    "wordnet": _wordnet,
}
MANIFESTS = (".jsonl", ".csv")


def names_in(source: str) -> list[str]:
    """Return the names and manifests that are joined with commas; a file whose name has commas is one."""
    return [source] if Path(source).is_file() else [one.strip() for one in source.split(",")]


def open_corpus(name_or_path: str, store: Path, seed: int) -> Corpus:
    """Open a corpus of `CORPORA`, or the recordings listed in a manifest; or several as one.

    Args:
        name_or_path: A name, or the path of a `.jsonl` or `.csv` manifest (:mod:`slamlab.data.recordings`); with commas
            between several.
        store: Folder for audio that is made here.
        seed: Seed of sentences, voices, splits and order, where the corpus leaves a choice.

    Raises:
        OptionError: If it is neither.
        DataError: If the corpus cannot be used.
    """
    names = names_in(name_or_path)
    if len(names) > 1:
        from slamlab.data.joined import JoinedCorpus

        if len(set(names)) < len(names):
            raise OptionError("joined corpora differ", f"one twice in {name_or_path}", "name each once")
        return JoinedCorpus([open_corpus(one, store, seed) for one in names])
    if name_or_path in CORPORA:
        return CORPORA[name_or_path](Path(store), seed)
    if Path(name_or_path).suffix.lower() in MANIFESTS:
        from slamlab.data.recordings import ManifestCorpus

        return ManifestCorpus(Path(name_or_path), seed)
    rule = f"a corpus is {', '.join(CORPORA)}, or a manifest ({', '.join(MANIFESTS)})"
    raise OptionError(rule, repr(name_or_path), "choose one of them")
