from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from slamlab.data.joined import JoinedCorpus
from slamlab.data.utterance import Utterance
from slamlab.errors import OptionError
from slamlab.training.base import teaching_jobs
from slamlab.zoo.corpora import names_in, open_corpus


class Sentences:
    """A corpus of sentences that were never recorded."""

    problems = ("one was empty",)

    def __init__(
        self,
        name: str,
        texts: dict[tuple[str, str], list[str]],
        tasks: tuple[str, ...] = ("asr",),
        english: dict[str, str] | None = None,
    ) -> None:
        self._english = english or {}
        self.name, self.fingerprint, self._texts, self._tasks = name, name * 3, texts, tasks
        self.languages = tuple(dict.fromkeys(code for code, _ in texts))

    def has(self, task: str, language: str) -> bool:
        return task in self._tasks and language in self.languages

    def utterances(self, language: str, split: str, limit: int | None = None) -> list[Utterance]:
        texts = self._texts.get((language, split), [])[:limit]
        return [
            Utterance(
                id=f"{i}",
                audio=Path(f"{text}.wav"),
                duration_s=1.0,
                language=language,
                text=text,
                translations={"en": self._english[text]} if text in self._english else {},
            )
            for i, text in enumerate(texts)
        ]


@pytest.fixture
def joined() -> JoinedCorpus:
    large = Sentences(
        "large", {("en", "train"): [f"sentence {i}" for i in range(7)], ("en", "test"): ["Stay, please."]}
    )
    small = Sentences(
        "small",
        {("en", "train"): ["stay please", "go"], ("de", "train"): ["bleib"], ("de", "test"): ["geh"]},
        tasks=("asr", "st"),
    )
    return JoinedCorpus([large, small])


def test_takes_turns_and_ids_stay_apart(joined: JoinedCorpus) -> None:
    assert (joined.name, joined.languages, len(joined.problems)) == ("large+small", ("en", "de"), 2)
    assert [one.id for one in joined.utterances("en", "train", 4)] == ["large/0", "small/1", "large/1", "large/2"]
    assert joined.utterances("en", "train")[:3] == joined.utterances("en", "train", 3)
    assert [one.text for one in joined.utterances("de", "test")] == ["geh"]
    assert len({one.id for one in joined.utterances("en", "train")}) == 8


def test_what_one_holds_out_no_other_teaches(joined: JoinedCorpus) -> None:
    assert "stay please" not in {one.text for one in joined.utterances("en", "train")}
    assert [one.text for one in joined.utterances("en", "test")] == ["Stay, please."]


def test_nor_is_its_translation_taught() -> None:
    english = Sentences("english", {("en", "test"): ["Stay here!"], ("en", "train"): ["go"]})
    german = Sentences("german", {("de", "train"): ["bleib hier", "lauf"]}, ("st",), {"bleib hier": "stay here"})
    joined = JoinedCorpus([english, german])
    assert [one.text for one in joined.utterances("de", "train")] == ["lauf"]
    assert [one.text for one in joined.utterances("de", "train", 1)] == ["lauf"], "another one in its place"


def test_a_task_is_had_where_all_who_speak_the_language_have_it(joined: JoinedCorpus) -> None:
    assert joined.has("asr", "en") and joined.has("st", "de")
    assert not joined.has("st", "en") and not joined.has("asr", "fr")


def test_a_base_learns_as_much_of_each(joined: JoinedCorpus) -> None:
    jobs = teaching_jobs(joined, 100)
    assert Counter(utterance.id.split("/")[0] for utterance, _ in jobs) == {"large": 7, "small": 7}
    assert {task for utterance, task in jobs if utterance.id.startswith("large")} == {"asr"}
    assert len({utterance.id for utterance, _ in jobs}) == 7 + 2
    assert len(teaching_jobs(joined, 2)) == 2 * 4  # of `small`: go, in both tasks, and bleib, in both


def test_fingerprint_and_order_follow_the_parts(joined: JoinedCorpus) -> None:
    turned = JoinedCorpus(list(joined.parts.values())[::-1])
    assert turned.fingerprint != joined.fingerprint
    assert turned.utterances("en", "train")[0].id == "small/1"


def test_ids_of_corpora_of_one_name_stay_apart(joined: JoinedCorpus) -> None:
    small = joined.parts["small"]
    twice = JoinedCorpus([small, small])
    assert [one.id for one in twice.utterances("de", "train")] == ["small-1/0", "small-2/0"]


def test_several_are_opened_by_name(tmp_path: Path) -> None:
    manifest = tmp_path / "mine.jsonl"
    assert names_in(f"pocket, {manifest}") == ["pocket", str(manifest)]
    (commas := tmp_path / "a,b.jsonl").touch()
    assert names_in(str(commas)) == [str(commas)]
    with pytest.raises(OptionError, match="'nothing'"):
        open_corpus("pocket,nothing", tmp_path, 0)
    with pytest.raises(OptionError, match="twice"):
        open_corpus(f"{manifest},{manifest}", tmp_path, 0)
