import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_graph.domain.words import (
    MAX_PREFIX_BYTES,
    MAX_PREFIX_WORDS,
    MAX_TERM_ID,
    MAX_WORD_CHARS,
    count_terms,
    part_texts,
    query_terms,
    term_id,
    terms,
    words,
    words_for_prefix,
)

any_text = st.text(max_size=300)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's snake_case, 3.14!", ["the", "cat", "s", "snake", "case", "3", "14"]),
        ("Café CAFÉ cafe\u0301", ["café"] * 3),
        ("\uff21\uff22\uff23 ﬁne Straße", ["abc", "fine", "strasse"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("東京都 go", ["東", "京", "都", "東京", "京都", "go"]),
        ("ab中cd", ["ab", "中", "cd"]),
        ("กา", ["ก", "า", "กา"]),
        ("ok👍🏽 👩‍💻🇩🇪🇫🇷 1️⃣", ["ok", "👍", "👩", "💻", "🇩🇪", "🇫🇷", "1"]),
        ("a\0b \ud800 c", ["a", "b", "c"]),
        ("", []),
        ("-- ... !?", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_plain_and_unicode_texts_are_cut_alike() -> None:
    text = "Every_Word, of 2 kinds: don't (re-read)! \t\n x" + "y" * 100
    assert words(text + " é") == [*words(text), "é"]
    assert words(text + " 👍") == [*words(text), "👍"]


@given(any_text, any_text)
def test_words_are_clean_bounded_and_apart(first: str, second: str) -> None:
    found = words(f"{first} {second}")
    assert found == [*words(first), *words(second)]
    assert all(0 < len(word) <= MAX_WORD_CHARS for word in found)
    assert all(not char.isspace() and char not in "_\0'" for word in found for char in word)


def test_a_long_word_is_cut_short() -> None:
    assert words("x" * 1_000) == ["x" * MAX_WORD_CHARS]
    assert words("é" * 1_000) == ["é" * MAX_WORD_CHARS]


def test_terms_are_stems_with_repeats_and_stop_words() -> None:
    assert terms("The running runners run") == ["the", "run", "runner", "run"]


def test_a_query_drops_stop_words_unless_it_has_nothing_else() -> None:
    assert query_terms("What is the capital of the capitals?") == ["capit"]
    assert query_terms("To be, or not to be") == ["to", "be", "or", "not"]
    assert query_terms("?!") == []


def test_query_terms_are_terms_of_the_same_text() -> None:
    text = "Where did Ångström's 東京 flights land 👍"
    assert set(query_terms(text)) < set(terms(text))


def test_term_ids_are_the_same_in_every_process() -> None:
    program = "from sfm_graph.domain.words import term_id; print(term_id('capit'), term_id('東京'))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(term_id("capit")), str(term_id("東京"))] == ["628217675", "215949809"]


@given(any_text, any_text)
def test_counts_agree_with_terms(title: str, content: str) -> None:
    found = words(f"{title}\n{content}")
    counts = count_terms(found)
    expected: dict[int, int] = {}
    for term in [*terms(title), *terms(content)]:
        expected[term_id(term)] = expected.get(term_id(term), 0) + 1
    assert counts == expected
    assert len(found) == sum(expected.values())
    assert all(1 <= number <= MAX_TERM_ID for number in expected)


def test_prefix_words_are_distinct_unstemmed_and_bounded() -> None:
    assert words_for_prefix(words("Running the RUNNING of 東京")) == ["running", "the", "of", "東", "京", "東京"]
    many = words_for_prefix([f"w{number}" for number in range(MAX_PREFIX_WORDS + 5)])
    assert many == [f"w{number}" for number in range(MAX_PREFIX_WORDS)]
    wide = words_for_prefix([f"{number:05}" + "𐐀" * 59 for number in range(MAX_PREFIX_WORDS)])
    assert MAX_PREFIX_BYTES - 300 < sum(len(word.encode()) for word in wide) <= MAX_PREFIX_BYTES


def _number_words(count: int) -> str:
    return " ".join(map(str, range(count)))


def test_a_short_text_is_its_only_part() -> None:
    for text in ("", " padded \n", _number_words(200), "word " * 200 + "\n"):
        assert part_texts(text) == [text]
    assert len(part_texts(_number_words(201))) == 2


def test_parts_end_with_paragraphs_before_sentences() -> None:
    paragraphs = "One two three four. Five six.\n\nSeven eight nine ten."
    assert part_texts(paragraphs, max_words=8, overlap=0) == [
        "One two three four. Five six.",
        "Seven eight nine ten.",
    ]
    sentences = "One two three four. Five six. Seven eight nine ten."
    assert part_texts(sentences, max_words=8, overlap=2) == [
        "One two three four. Five six.",
        "Five six. Seven eight nine ten.",
    ]
    assert part_texts(sentences, max_words=5, overlap=0)[0] == "One two three four."


def test_texts_without_spaces_have_parts() -> None:
    assert [len(part) for part in part_texts("字" * 500, max_words=200, overlap=30)] == [200, 200, 160]
    assert "".join(part_texts("x" * 64_000, max_words=200, overlap=0)) == "x" * 64_000
    assert part_texts("一二三。四五六七八", max_words=6, overlap=0) == ["一二三。", "四五六七八"]


@given(
    st.lists(st.sampled_from([" ", ". ", "!\n", "\n\n", "\n \n", ""]), min_size=1, max_size=120),
    st.integers(1, 25),
    st.integers(0, 30),
)
def test_parts_cover_the_text_in_order(gaps: list[str], max_words: int, overlap: int) -> None:
    text = "".join(f"{number:03}{gap}{chr(0x4E00 + number) * (not gap)}" for number, gap in enumerate(gaps))
    covered = 0
    for part in part_texts(text, max_words, overlap):
        begins = text.index(part)
        assert begins <= covered or not text[covered:begins].strip()
        assert begins + len(part) > covered
        assert part_texts(part, max_words, overlap) == [part]
        covered = begins + len(part)
    assert not text[covered:].strip()


@pytest.mark.parametrize(("max_words", "overlap"), [(0, 0), (-1, 0), (10, -1)])
def test_impossible_parts_are_refused(max_words: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="max_words"):
        part_texts("text", max_words, overlap)
