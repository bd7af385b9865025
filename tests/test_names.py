"""Names, dates and cues: what texts say by spelling alone, against naive searches."""

import contextlib
import unicodedata
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sfm_graph.domain.cues import (
    DEFAULT_CUE_FIELDS,
    MAX_ALIASES,
    MAX_CUE_CHARS,
    CueFields,
    Cues,
    cue_fields,
    cues_of,
    own_text,
)
from sfm_graph.domain.dates import PartialDate, date_of, dates_in
from sfm_graph.domain.memory import MemoryKind, NewMemory
from sfm_graph.domain.names import (
    MAX_NAME_BYTES,
    MAX_NAME_WORDS,
    MAX_PROPER_NAMES,
    MAX_PROPER_WORDS,
    MAX_TEXT_CHARS,
    Name,
    NameTrie,
    Spelling,
    find_longest,
    fold,
    head_of,
    heads_in,
    name_id,
    name_of,
    names_of,
    proper_names,
    spelling,
)
from sfm_graph.domain.words import STOP_WORDS
from sfm_graph.errors import InvalidInput, TooLarge


def _mentions(text: Spelling, trie: NameTrie) -> list[Name]:
    """The names that a text says with a telling word in each, as the mention linker finds them."""
    return list(dict.fromkeys(one.name for one in trie.find(text.folded) if any(text.telling[one.begin : one.end])))


def _spelling(words: list[str], telling: list[bool]) -> Spelling:
    return Spelling(words, words, telling)


# Few words, so that names overlap, nest and repeat; some tell, some do not.
vocabulary = st.sampled_from(["new", "york", "city", "the", "of", "été", "ii", "7", "straße"])
names = st.lists(vocabulary, min_size=1, max_size=MAX_NAME_WORDS).map(lambda found: tuple(map(fold, found)))
spellings = st.lists(st.tuples(vocabulary.map(fold), st.booleans()), max_size=40).map(
    lambda pairs: _spelling([word for word, _ in pairs], [tells for _, tells in pairs])
)
texts = st.text(st.sampled_from("aAbBéÉßİ ñ\u0301\u0938\u093f猫京ﬁ①9\u0663🙂\n.,-'\u2019_()"), max_size=80)


def _memory(
    title: str | None = None, content: str = "", payload: dict[str, Any] | None = None, **more: Any
) -> NewMemory:
    return NewMemory(None, None, MemoryKind.EPISODIC, title, content, payload or {}, 1.0, **more)


def _naive(folded: list[str], known: set[Name]) -> list[tuple[int, int]]:
    """Leftmost longest by trying every length at every place."""
    found, at = [], 0
    while at < len(folded):
        lengths = [n for n in range(len(folded) - at, 0, -1) if tuple(folded[at : at + n]) in known]
        if lengths:
            found.append((at, at + lengths[0]))
        at += lengths[0] if lengths else 1
    return found


@given(word=st.text(min_size=1, max_size=20))
@example(word="\u0301")
@example(word="ǅ")
def test_fold_forgets_case_and_accents(word: str) -> None:
    folded = fold(word)
    assert folded
    assert fold(folded) == folded
    if len(word.lower()) == len(word.upper()) == len(word) and word.lower().upper() == word.upper():
        assume(word.casefold() == word.lower())
        assert fold(word.lower()) == folded
    if word.isalpha():
        assert fold(unicodedata.normalize("NFC", word + "\u0301")) == folded


@pytest.mark.parametrize(
    ("title", "aliases", "expected"),
    [
        ("Nicki Minaj", (), [("nicki", "minaj")]),
        ("Été (film, 1998)", (), [("ete", "film", "1998"), ("ete",)]),
        ("Mercury (planet) (film)", (), [("mercury", "planet", "film"), ("mercury", "planet")]),
        ("(1998)", (), []),
        ("The Who", (), []),
        ("1984", ("Nineteen Eighty-Four", "1984"), [("nineteen", "eighty", "four")]),
        ("Catch 22", (), [("catch", "22")]),
        (None, ("K.", "", "Ünïcode", "unicode"), [("k",), ("unicode",)]),
        ("word " * 16, (), [("word",) * 16]),
        ("word " * 17, (), []),
        ("...", (), []),
    ],
)
def test_what_memories_are_called(title: str | None, aliases: tuple[str, ...], expected: list[Name]) -> None:
    assert names_of(title, aliases) == expected


@given(title=texts, aliases=st.lists(texts, max_size=4))
def test_names_are_folded_distinct_and_bounded(title: str, aliases: list[str]) -> None:
    found = names_of(title, aliases)
    assert len(found) == len(set(found))
    for name in found:
        assert 1 <= len(name) <= MAX_NAME_WORDS
        assert tuple(map(fold, name)) == name
        assert not all(word in STOP_WORDS for word in name)
        assert head_of(name) in (name[0], " ".join(name[:2]))
        assert name in [name_of(one) for one in (title, *aliases)] or "(" in title


@given(one=names, other=names)
def test_ids_of_names_tell_them_apart_and_fit(one: Name, other: Name) -> None:
    assert 0 <= name_id(one) < 2**63
    assert (name_id(one) == name_id(other)) == (one == other)


@given(text=spellings, known=st.sets(names, max_size=12))
def test_the_trie_finds_what_a_naive_search_finds(text: Spelling, known: set[Name]) -> None:
    trie = NameTrie(known)
    found = trie.find(text.folded)
    assert [(one.begin, one.end) for one in found] == _naive(list(text.folded), known)
    assert all(one.name == tuple(text.folded[one.begin : one.end]) for one in found)
    assert all(left.end <= right.begin for left, right in pairwise(found))
    assert find_longest(text.folded, lambda _: True, known.__contains__) == found


@given(text=spellings, known=st.sets(names, max_size=12))
def test_mentions_have_a_telling_word_and_their_head_is_looked_up(text: Spelling, known: set[Name]) -> None:
    found = _mentions(text, NameTrie(known))
    places = _naive(list(text.folded), known)
    told = [tuple(text.folded[begin:end]) for begin, end in places if any(text.telling[begin:end])]
    assert found == list(dict.fromkeys(told))
    heads = heads_in(text)
    assert all(head_of(name) in heads for name in found)
    # Known names come from those heads alone: nothing else may be needed to find the same mentions.
    looked_up = {name for name in known if head_of(name) in heads}
    assert set(_mentions(text, NameTrie(looked_up))) >= set(found)


@given(words=st.lists(st.booleans(), min_size=1, max_size=40))
def test_heads_are_those_within_reach_of_a_telling_word(words: list[bool]) -> None:
    folded = [f"w{place}" for place in range(len(words))]
    expected = {word for word, tells in zip(folded, words, strict=True) if tells}
    expected |= {
        f"{folded[at]} {folded[at + 1]}" for at in range(len(folded) - 1) if any(words[at : at + MAX_NAME_WORDS])
    }
    assert heads_in(_spelling(folded, words)) == expected


@pytest.mark.parametrize(
    ("text", "name", "mentioned"),
    [
        ("She met Nicki  Minaj there", "Nicki Minaj", True),
        ("she met nicki minaj there", "Nicki Minaj", False),
        ("she met nicki Minaj there", "Nicki Minaj", True),
        ("AC/DC live", "ac dc", True),
        ("an ÉTÉ there", "Ete", True),
        ("in E\u0301te\u0301", "été", True),
        ("die STRASSE", "Straße", True),
        ("New Yorkers", "New York", False),
        ("room 101b", "101b", True),
        ("snake_Case", "Case", True),
    ],
)
def test_mentions_by_hand(text: str, name: str, mentioned: bool) -> None:
    assert bool(_mentions(spelling(text), NameTrie(names_of(name)))) is mentioned


@given(text=texts)
def test_spelling_covers_the_text(text: str) -> None:
    found = spelling(text)
    assert len(found.folded) == len(found.telling)
    assert all(word and fold(word) == word for word in found.folded)
    assert proper_names(text) == proper_names(unicodedata.normalize("NFKC", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He met Grace Hopper in Windhoek.", ["grace hopper", "windhoek"]),
        ("Then it rained. Windhoek was dry.", []),
        ("Then it rained in Windhoek. Windhoek was dry.", ["windhoek"]),
        ("Grace Hopper. World War 2 began.", ["grace hopper", "world war 2"]),
        ("The Bank of England in the City", ["england", "city"]),
        ("Jean-Luc O'Neill's Mary", ["jean luc o neill", "mary"]),
        ("see Anna, Bert and Carl; Dora", ["anna", "bert", "carl", "dora"]),
        ("on Monday\nTuesday came", ["monday"]),
        ("with A and B", []),
        ("by One Two Three Four Five Six", ["one two three four five"]),
        ("from Ünal Özil", ["unal ozil"]),
        ("in 1998 2000", []),
        ("", []),
    ],
)
def test_proper_names_by_hand(text: str, expected: list[str]) -> None:
    assert [" ".join(name) for name in proper_names(text)] == expected


@given(text=texts)
def test_proper_names_are_bounded_and_end_in_telling_words(text: str) -> None:
    found = proper_names(text)
    assert len(found) == len(set(found)) <= MAX_PROPER_NAMES
    for name in found:
        assert 1 <= len(name) <= MAX_PROPER_WORDS
        assert name[0] not in STOP_WORDS


def test_a_text_has_at_most_256_proper_names() -> None:
    text = " and ".join(f"Xa{chr(97 + i % 26)}{chr(97 + i // 26)} Yb" for i in range(500))
    assert len(proper_names(text)) == MAX_PROPER_NAMES


def test_looking_for_names_takes_steps_in_proportion() -> None:
    """Of a word at most 16 beginnings are looked up, whatever is known: no backtracking over the text."""
    looked_up = 0

    def begins(_: Name) -> bool:
        nonlocal looked_up
        looked_up += 1
        return True

    folded = ["word"] * 20_000
    assert find_longest(folded, begins, lambda _: False) == []
    assert looked_up <= MAX_NAME_WORDS * len(folded)
    assert len(heads_in(_spelling(folded, [True] * len(folded)))) == 2


@pytest.mark.parametrize("text", ["Aa " * 40_000, "A" * 120_000, "a-" * 60_000, "(" * 120_000, "Á" * 120_000])
def test_long_texts_are_cut_where_names_are_looked_for(text: str) -> None:
    found = spelling(text)
    assert sum(map(len, found.folded)) <= MAX_TEXT_CHARS
    assert spelling(text + " Zanzibar") == spelling(text + " nothing")
    assert proper_names(text + " in Zanzibar") == proper_names(text)
    assert len(names_of(text, [text])) <= 1
    assert dates_in(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-05-08", [(2023, 5, 8)]),
        ("at 2023-05-08T10:00:00Z", [(2023, 5, 8)]),
        ("2023-05", [(2023, 5, None)]),
        ("8 May, 2023", [(2023, 5, 8)]),
        ("May 8th 2023", [(2023, 5, 8)]),
        ("the 1st of June 1998", [(1998, 6, None)]),
        ("May 2023", [(2023, 5, None)]),
        ("in June", [(None, 6, None)]),
        ("3 Dec", [(None, 12, 3)]),
        ("may I", []),
        ("the march", [(None, 3, None)]),
        ("mar the car", []),
        ("born 1998", [(1998, None, None)]),
        ("1400 or 2100", []),
        ("2023-13-08", []),
        ("2023-05-00", []),
        ("0 May", [(None, 5, None)]),
        ("12-2023-05", [(2023, None, None)]),
        ("99 May 2023", [(2023, 5, None)]),
        ("June 5 and 1998", [(None, 6, 5), (1998, None, None)]),
        ("", []),
    ],
)
def test_dates_by_hand(text: str, expected: list[tuple[int | None, ...]]) -> None:
    assert [tuple(one) for one in dates_in(text)] == expected


parts = st.tuples(st.integers(1500, 2099), st.integers(1, 12), st.integers(1, 31))


@given(one=parts, other=parts, said=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_date_agrees_in_all_parts_that_it_has(
    one: tuple[int, ...], other: tuple[int, ...], said: tuple[bool, ...]
) -> None:
    assume(any(said))
    partial = PartialDate(*(part if is_said else None for part, is_said in zip(one, said, strict=True)))
    expected = all(a == b for a, b, is_said in zip(one, other, said, strict=True) if is_said)
    assert partial.agrees(PartialDate(*other).packed) is expected
    assert partial.agrees(PartialDate(*one).packed)
    assert 0 < partial.packed < 2**31


dated = st.from_regex(r"[0-9\u0660-\u0669]{0,5}[- /]?(may|JUNE|8th)?[- ,]?[0-9]{0,4}")


@given(text=st.text(max_size=60) | texts | dated)
def test_any_text_gives_dates_that_exist_in_part(text: str) -> None:
    for one in dates_in(text):
        assert any(part is not None for part in one)
        assert 0 < one.packed < 2**31
        assert one.agrees(one.packed)
        assert one.month is None or 1 <= one.month <= 12
        assert one.day is None or 1 <= one.day <= 31


@given(moment=st.datetimes(timezones=st.just(UTC)))
def test_a_moment_is_of_its_day(moment: datetime) -> None:
    found = date_of(moment)
    assert (found.year, found.month, found.day) == (moment.year, moment.month, moment.day)
    assert 0 < found.packed < 2**31


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)
cue_names = st.sampled_from([*DEFAULT_CUE_FIELDS.aliases, *DEFAULT_CUE_FIELDS.author, *DEFAULT_CUE_FIELDS.sequence,
                             *DEFAULT_CUE_FIELDS.position, *DEFAULT_CUE_FIELDS.date, "other"])  # fmt: skip


@given(
    title=st.none() | texts, content=texts, payload=st.dictionaries(cue_names, values, max_size=6),
    moment=st.none() | st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip
@example(title=None, content="", payload={"session": 10**4000, "position": 10**400, "date": -(10**4000)}, moment=None)
@example(title=None, content="", payload={"position": float("inf"), "aliases": ["x" * 5000] * 60}, moment=None)
def test_any_payload_gives_cues(
    title: str | None, content: str, payload: dict[str, Any], moment: datetime | None
) -> None:
    cues = cues_of(_memory(title, content, payload, valid_from=moment), DEFAULT_CUE_FIELDS)
    assert cues.author is None or 0 <= cues.author < 2**63
    assert 0 <= cues.date < 2**31
    assert cues.sequence is None or 0 < len(cues.sequence) <= MAX_CUE_CHARS
    assert abs(cues.position) < 1e300
    assert len(cues.names) <= MAX_ALIASES + 2
    assert all(len(" ".join(name).encode()) <= MAX_NAME_BYTES for name in cues.names)


def test_cues_are_read_from_their_fields() -> None:
    payload = {
        "speaker": "Zoë Smith", "author": None, "session": 7, "position": "x", "turn": 3, "timestamp": "8 May 2023",
        "aliases": ["Bob", 3, "the"],
    }  # fmt: skip
    cues = cues_of(_memory("Robert (man)", "Robert (man)\nHe met Ann Lee", payload), DEFAULT_CUE_FIELDS)
    assert cues.names == (("robert", "man"), ("robert",), ("bob",))
    assert ("ann", "lee") in cues.proper_names
    assert cues.author == name_id(("zoe", "smith"))
    assert (cues.sequence, cues.date) == ("7", PartialDate(2023, 5, 8).packed)
    # A position of another form gives none: what another field holds is not looked at.
    assert cues.position == 0.0
    other = CueFields(author=("by",), sequence=(), position=("at", "turn"), date=())
    cues = cues_of(_memory("T", "x", {**payload, "by": "Ann", "at": 2.5}), other)
    assert (cues.author, cues.sequence, cues.position, cues.date) == (name_id(("ann",)), None, 2.5, 0)


def test_a_date_that_is_not_said_is_that_of_validity() -> None:
    moment = datetime(2024, 2, 29, 23, tzinfo=UTC)
    assert cues_of(_memory(content="x", valid_from=moment), DEFAULT_CUE_FIELDS).date == date_of(moment).packed
    said = _memory(content="x", payload={"date": "June 1998"}, valid_from=moment)
    assert cues_of(said, DEFAULT_CUE_FIELDS).date == PartialDate(1998, 6, None).packed
    assert cues_of(_memory(content="in 1998"), DEFAULT_CUE_FIELDS) == Cues()


@pytest.mark.parametrize(
    ("title", "content", "own"),
    [
        (None, "x", "x"),
        ("T", "T\n\nx", "x"),
        ("T", "The x", "The x"),
        ("T", "T. he x", ". he x"),
        ("T", "T", ""),
        ("T", "x T", "x T"),
    ],
)
def test_the_own_text_is_without_the_title_it_begins_with(title: str | None, content: str, own: str) -> None:
    assert own_text(title, content) == own


@given(value=values | st.dictionaries(st.sampled_from(["author", "date", "x"]), values))
def test_cue_fields_are_valid_or_refused(value: Any) -> None:
    with contextlib.suppress(InvalidInput, TooLarge):
        found = cue_fields(value)
        assert cue_fields(found.as_json()) == found


@pytest.mark.parametrize(
    "value", [None, [], {"writer": ["x"]}, {"author": 3}, {"author": ["x"] * 9}, {"author": [""]}, {"author": [None]}]
)
def test_wrong_cue_fields_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        cue_fields(value)
