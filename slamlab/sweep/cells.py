"""Options in, cells out. A cell is (family, scale, encoder, task, language): one question, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slamlab.data.utterance import Corpus
from slamlab.errors import OptionError
from slamlab.zoo.decoders import DECODERS, GIVEN, is_own
from slamlab.zoo.encoders import ENCODERS, find_encoder
from slamlab.zoo.languages import find_language
from slamlab.zoo.profiles import Profile

TASKS = {"asr": "speech recognition", "st": "speech translation into English"}
ALL = "all"
JOINT = "joint"
"""In the place of a task: all that a sweep asks of one base."""


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One combination whose largest removable block is searched."""

    family: str
    scale: str
    encoder: str
    task: str
    language: str

    @property
    def name(self) -> str:
        """Short name, unique within a sweep, for progress lines."""
        spoken = f"{self.language}-en" if self.task == "st" else self.language
        decoder = _short(self.family) if self.scale == GIVEN else f"{self.family}-{self.scale}"
        encoder = "" if self.encoder == self.family else f" {_short(self.encoder)}"  # a SpeechLLM's own
        return f"{decoder}{encoder} {self.task} {spoken}"

    @property
    def text_language(self) -> str:
        """Language of the texts that are scored: of the transcripts, or of the translations."""
        return "en" if self.task == "st" else self.language

    def as_dict(self) -> dict[str, str]:
        """Return the cell as records hold it."""
        return asdict(self)


def _short(name: str) -> str:
    """Return a folder's own name; a hub id stays whole."""
    return Path(name).name if Path(name).is_absolute() else name


def joint_cell(cell: Cell) -> Cell:
    """Return the cell that stands for every cell of a sweep with this one's base, as joint trials are asked for."""
    return replace(cell, task=JOINT, language=ALL)


def make_cells(
    profile: Profile,
    corpus: Corpus,
    *,
    families: Sequence[str],
    scales: Sequence[str] = (),
    encoders: Sequence[str] = (),
    tasks: Sequence[str] = (),
    languages: Sequence[str] = (),
) -> list[Cell]:
    """Return the cells that options name, in their order, without repeats.

    An empty option takes the profile's default, `all` whatever exists. Where `all` or a default meets a combination
    without data it is left out; where the user named every part of it, it is refused.

    Raises:
        OptionError: An unknown name, or named values for which the corpus has no data.
    """
    picked_families = _families(families, scales, profile)
    cells = []
    for family in picked_families:
        for scale in _scales(family, picked_families, scales, profile):
            for encoder in _expand("encoder", encoders, list(ENCODERS), default=[profile.encoder], open_ended=True):
                find_encoder(encoder)
                cells += [
                    Cell(family=family, scale=scale, encoder=encoder, task=task, language=language)
                    for task, language in _questions(profile, corpus, tasks, languages)
                ]
    return list(dict.fromkeys(cells))


def _questions(
    profile: Profile, corpus: Corpus, tasks: Sequence[str], languages: Sequence[str]
) -> list[tuple[str, str]]:
    """Return the (task, language) pairs that are asked for and have data."""
    for language in languages:
        if language != ALL:
            find_language(language)
    if tasks or languages:
        wanted_tasks = _expand("task", tasks, list(TASKS), default=list(TASKS))
        wanted_languages = list(corpus.languages) if not languages or ALL in languages else list(languages)
        pairs = [(task, language) for task in wanted_tasks for language in wanted_languages]
        for language in languages:
            if language != ALL and not any(corpus.has(task, language) for task in wanted_tasks):
                raise _no_data(corpus, wanted_tasks, language)
        for task in tasks:
            if task != ALL and not any(corpus.has(task, language) for language in wanted_languages):
                raise _no_data(corpus, [task], ", ".join(wanted_languages))
    else:
        pairs = [pair for pair in profile.cells if corpus.has(*pair)]
        pairs = pairs or [(task, language) for language in corpus.languages for task in TASKS]
    pairs = [pair for pair in pairs if corpus.has(*pair)]
    if not pairs:
        raise _no_data(corpus, list(TASKS), ", ".join(corpus.languages) or "no language")
    return pairs


def _no_data(corpus: Corpus, tasks: Sequence[str], language: str) -> OptionError:
    has = [f"{task} {code}" for task in TASKS for code in corpus.languages if corpus.has(task, code)]
    return OptionError(
        f"the corpus {corpus.name} has data for {', '.join(has) or 'nothing'}",
        f"--task {' or '.join(tasks)} with --language {language}",
        "choose a pair that it has, or bring another corpus with --data",
    )


def _expand(
    option: str, values: Sequence[str], known: Sequence[str], *, default: Sequence[str], open_ended: bool = False
) -> list[str]:
    if not values:
        return list(default)
    if ALL in values:
        return list(known)
    for value in values:
        if value not in known and not open_ended:
            raise OptionError(f"a {option} is one of {', '.join(known)}, or all", value, "choose from these")
    return list(values)


def _families(families: Sequence[str], scales: Sequence[str], profile: Profile) -> list[str]:
    """Return the families that are asked for; all of them are the profile's own, unless scales are named too."""
    named, own = ([one for one in families if is_own(one) == wanted] for wanted in (False, True))
    if not families or (ALL in named and not scales):
        return [*profile.scale, *own]
    return [*_expand("family", named, list(dict.fromkeys(family for family, _ in DECODERS)), default=()), *own]


def _scales(family: str, families: Sequence[str], scales: Sequence[str], profile: Profile) -> list[str]:
    """Return the scales of one family: the profile's, or those among the named ones that it has."""
    if is_own(family):
        return [GIVEN]
    known = {name: [scale for owner, scale in DECODERS if owner == name] for name in families if not is_own(name)}
    if not scales:
        if family not in profile.scale:
            raise OptionError(
                f"the profile {profile.name} has a default scale for {', '.join(profile.scale)}",
                family,
                f"name one with --scale: {', '.join(known[family])}",
            )
        return [profile.scale[family]]
    for scale in scales:
        if scale != ALL and not any(scale in of_family for of_family in known.values()):
            choices = "; ".join(f"{name}: {', '.join(of_family)}" for name, of_family in known.items())
            raise OptionError(f"a scale is one that the family has ({choices}), or all", scale, "choose from these")
    return [scale for scale in known[family] if ALL in scales or scale in scales]
