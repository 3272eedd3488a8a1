import pytest

from slamlab.scoring.guards import SPAN, count_guards, has_loop
from slamlab.scoring.records import Record


def _record(reference, hypothesis, stopped=""):
    return Record(
        id="u",
        reference=reference,
        hypothesis=hypothesis,
        reference_normalized=reference,
        hypothesis_normalized=hypothesis,
        stopped=stopped,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no " * (SPAN - 1), False),
        ("no " * SPAN, True),
        ("well " + "no " * SPAN + "and so on", True),
        ("a b " * 5, False),  # ten units only
        ("a b " * 6, True),
        ("one two three four five " * 3, False),  # thrice is rhetoric
        ("one two three four five " * 4, True),
        ("a b c d e f g h i " * 5, False),  # a period beyond the longest
        ("", False),
    ],
)
def test_a_loop_repeats_often_and_long_enough(text, expected):
    assert has_loop(text.split()) is expected


def test_each_kind_of_degenerate_answer_is_counted():
    records = [
        _record("one two three four", "one two three four"),
        _record("one two three four", ""),
        _record("one two three four", "no " * 20),
        _record("one two three four", "one two", "loop"),  # cut off in time, so the text has none
        _record("one two three four", "one two three four five", "length"),
        _record("one two three four", "one", "eos"),
        _record("one two three four", "one"),
        _record("one two three", "one", "eos"),  # too short to tell
        _record("one two three four", "one", "length"),  # the cap ended it, not the model
    ]
    assert count_guards(records) == {
        "num_empty_hypotheses": 1,
        "num_loops": 2,
        "num_capped": 2,
        "num_premature": 2,
    }


def test_a_loop_that_was_said_is_none():
    chant = "la " * 20
    assert count_guards([_record(chant, chant)])["num_loops"] == 0


def test_letters_are_looked_at_where_words_are_not_spaced():
    records = [
        _record("我们今天去公园", "好" * 40),
        _record("我们今天去公园", "我"),
        _record("我 们 今 天", "我 们 今 天"),
    ]
    counts = count_guards(records, "character")
    assert (counts["num_loops"], counts["num_premature"]) == (1, 1)
    assert count_guards(records)["num_loops"] == 0
