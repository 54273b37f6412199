from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from myllm.engine.detokenizer import Detokenizer

PROFILE = settings(derandomize=True, deadline=None, max_examples=300)
LETTERS = st.text(alphabet="abé😀", max_size=16)  # few letters, so that stop strings overlap
STOPS = st.lists(st.text(alphabet="abé😀", min_size=1, max_size=4), max_size=4).map(tuple)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, some of them empty, as tokens may be."""
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    """The texts that became certain, as the engine asks for them: until stopped, then what was held."""
    detokenizer = Detokenizer(stop)
    texts = []
    for piece in pieces:
        texts.append(detokenizer.decode(piece))
        if detokenizer.is_stopped:
            break
    return [*texts, detokenizer.flush()]


def cut_at_first_stop(text: str, stop: tuple[str, ...]) -> str:
    """Letter by letter, as a reader would do it: the stop string that is complete first ends the text."""
    for end in range(1, len(text) + 1):
        starts = [end - len(word) for word in stop if text[:end].endswith(word)]
        if starts:
            return text[: min(starts)]
    return text


@PROFILE
@given(LETTERS, st.lists(st.integers(0, 100), max_size=12), STOPS)
def test_however_the_bytes_are_split_the_text_is_the_whole_text_cut_at_the_first_stop_string(text, cuts, stop):
    pieces = split(text.encode(), cuts)

    texts = run(pieces, stop)

    assert "".join(texts) == cut_at_first_stop(text, stop)


@PROFILE
@given(st.text(max_size=20), st.lists(st.integers(0, 200), max_size=20))
def test_no_half_character_is_ever_shown(text, cuts):
    """Every text is a beginning of the whole one, so none holds a replacement character for a half."""
    shown = ""

    for more in run(split(text.encode(errors="replace"), cuts)):
        shown += more
        assert text.encode(errors="replace").decode().startswith(shown)


@PROFILE
@given(LETTERS, st.lists(st.integers(0, 100), max_size=12), STOPS)
def test_nothing_of_a_stop_string_is_shown_before_it_is_complete(text, cuts, stop):
    expected = cut_at_first_stop(text, stop)
    shown = ""

    for more in run(split(text.encode(), cuts), stop):
        shown += more
        assert expected.startswith(shown)


@PROFILE
@given(st.binary(max_size=24), st.lists(st.integers(0, 100), max_size=12))
def test_bytes_that_are_no_text_are_replaced_the_same_way_however_they_are_split(data, cuts):
    whole = run([data])

    assert "".join(run(split(data, cuts))) == "".join(whole)
    assert data.decode(errors="replace").startswith("".join(whole))


@PROFILE
@given(st.binary(max_size=24), st.lists(st.integers(0, 100), max_size=12), st.sampled_from([("\ufffd",), ("a",), ("ab", "b")]))
def test_stop_strings_are_found_among_bytes_that_are_no_text(data, cuts, stop):
    text = "".join(run([data]))

    assert "".join(run(split(data, cuts), stop)) == cut_at_first_stop(text, stop)


def test_text_without_stop_strings_is_shown_at_once():
    assert run([b"He", b"llo"]) == ["He", "llo", ""]


def test_a_character_of_four_bytes_waits_for_its_last():
    assert run([b"\xf0", b"\x9f\x98", b"\x80!"]) == ["", "", "😀!", ""]


def test_a_character_that_never_got_its_last_byte_is_dropped():
    assert run([b"ok\xf0\x9f\x98"]) == ["ok", ""]


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\x80", b"\x80"])
def test_bytes_that_can_never_become_a_character_are_replaced_at_once(data):
    assert run([data])[0].startswith("\ufffd")


def test_a_beginning_of_a_stop_string_is_held_until_it_turns_out_to_be_none():
    assert run([b"one <", b"en", b"d of"], ("<end>",)) == ["one ", "", "<end of", ""]


def test_a_beginning_of_a_stop_string_is_shown_when_the_generation_ends():
    assert run([b"one <en"], ("<end>",)) == ["one ", "<en"]


def test_what_follows_a_stop_string_in_its_token_is_dropped():
    assert run([b"yes###no"], ("###",)) == ["yes", ""]


def test_the_stop_string_that_is_complete_first_wins():
    """`bc` ends the text before `abcd` could: found in one piece or letter by letter, the answer is the same."""
    stop = ("abcd", "bc")

    assert "".join(run([b"abcd"], stop)) == "a"
    assert "".join(run([b"a", b"b", b"c", b"d"], stop)) == "a"


@pytest.mark.parametrize(("text", "seen"), [(b"abcd", "bc"), (b"xabc", "abc"), (b"x", None)])
def test_which_stop_string_it_was_is_told(text, seen):
    detokenizer = Detokenizer(("abcd", "bc") if seen == "bc" else ("bc", "abc"))

    detokenizer.decode(text)

    assert detokenizer.stop_string == seen


def test_of_two_stop_strings_that_end_together_the_longer_one_is_cut_off_whole():
    assert "".join(run([b"xabc"], ("bc", "abc"))) == "x"


def test_an_overlapping_second_beginning_is_not_lost():
    assert "".join(run([b"a", b"a", b"a", b"b"], ("aab",))) == "a"


def test_an_empty_stop_string_stops_nothing():
    assert "".join(run([b"Hel", b"lo"], ("", "###"))) == "Hello"


def test_a_huge_stop_string_holds_back_only_what_may_begin_it():
    stop = "a" * 100_000 + "b"

    assert run([b"xa", b"ay"], (stop,)) == ["x", "aay", ""]
