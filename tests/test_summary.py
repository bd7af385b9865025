"""Extractive summaries: whose sentences they are, how long, and which."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.sentences import sentences
from sfm_graph.domain.summary import summary, summary_of

STORY = (
    "The fence fell in the storm. We had soup. The storm broke the fence near the garden gate. "
    "Ada mended the garden fence after the storm. The cat slept."
)
_TEXT = st.lists(
    st.sampled_from(["The fence fell.", "Storm over the garden!", "soup", "Ada mended the fence", "  ", "\n\n",
                     "你好。", "Really?", "a.b", "- item", "Dr. No", "...", "\x85", "fence fence fence", "\n"]),
    max_size=30,
).map(" ".join) | st.text(max_size=200)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith met J. R. Jones. He left.", ["Dr. Smith met J. R. Jones.", "He left."]),
        ("It is e.g. Tuesday. So.", ["It is e.g. Tuesday.", "So."]),
        ("He said hi! then he left. Bye", ["He said hi! then he left.", "Bye"]),
        ("A heading\n\nand a text", ["A heading", "and a text"]),
        ("- one\n- two\n  goes on", ["- one", "- two goes on"]),
        ('"Stop." He did.', ['"Stop."', "He did."]),
        ("你好。再见。OK", ["你好。", "再见。", "OK"]),
        ("v1.2 is out", ["v1.2 is out"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, found: list[str]) -> None:
    assert sentences(text) == found


@given(_TEXT)
def test_sentences_hold_all_of_a_text(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(_TEXT, st.integers(1, 5), st.integers(1, 120))
def test_a_summary_is_made_of_the_texts_own_sentences_in_their_order(text: str, count: int, most: int) -> None:
    made = summary(text, sentences=count, max_chars=most)
    assert len(made) <= most
    assert made == summary(text, sentences=count, max_chars=most)
    own = list(dict.fromkeys(sentences(text)))
    if made.endswith("\u2026") and not any(made.endswith(one) for one in own):
        assert any(one.startswith(made[:-1]) for one in own)
        return
    assert any(_reads(made, own, used) for used in range(count + 1))


def _reads(text: str, own: Sequence[str], used: int) -> bool:
    """Whether a text is so many of these sentences, in their order."""
    if not used:
        return text == ""
    return any(
        _reads(text[len(one) + 1 :], own[place + 1 :], used - 1)
        for place, one in enumerate(own)
        if text == one or text.startswith((f"{one} ", f"{one}\n"))
    )


def test_a_short_text_is_its_own_summary() -> None:
    assert summary("The fence fell.  It was\nmended.") == "The fence fell. It was mended."
    assert summary("") == summary(" \n") == summary("...") == ""


def test_what_most_sentences_are_about_is_chosen() -> None:
    made = summary(STORY, sentences=2)
    assert "soup" not in made
    assert "cat" not in made
    assert "fence" in made


def test_what_was_said_is_not_said_again() -> None:
    said = "The fence fell in the storm. " * 5 + "The fence was mended by Ada."
    assert summary(said, sentences=3) == "The fence fell in the storm. The fence was mended by Ada."


def test_a_sentence_that_is_too_long_is_cut_at_a_word() -> None:
    assert summary("word " * 400, max_chars=20) == "word word word\u2026"
    assert summary("x" * 30, max_chars=1) == "\u2026"
    cut = summary("The quick brown fox jumps over the lazy dog and runs", max_chars=30)
    assert cut == "The quick brown fox jumps\u2026"


def test_each_text_has_its_say() -> None:
    made = summary_of(["The fence fell. The fence broke. The old fence fell.", "The boat sank."], sentences=2)
    assert "boat" in made
    assert "fence" in made


def test_a_huge_text_of_one_letter_words_is_bounded() -> None:
    text = ". ".join(f"A{number} b{number % 7}" for number in range(20_000))
    assert 0 < len(summary(text, sentences=3, max_chars=100)) <= 100


@pytest.mark.parametrize(("count", "most"), [(0, 10), (3, 0), (-1, 5)])
def test_nonsense_is_refused(count: int, most: int) -> None:
    with pytest.raises(ValueError, match=">= 1"):
        summary("One.", sentences=count, max_chars=most)
