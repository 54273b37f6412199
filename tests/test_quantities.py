from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from myllm.errors import InvalidRequest
from myllm.quantities import parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5m", 300),
        (".5m", 30),
        ("0", 0),
        (0, 0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        ("1h30m", 5400),
        (300, 300),
        ("300ms", 0.3),
        ("1s500ms250us", 1.50025),
        ("7\xb5s", 7e-6),
        ("7\u03bcs", 7e-6),
        ("90ns", 9e-8),
        ("+5m", 300),
        (1.5, 1.5),
    ],
)
def test_a_duration_is_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "5x", "m", "1h30", "--1", "nan", "inf", math.nan, True, None, [], {}, "9" * 100, 2**63, "1 h"])
def test_what_is_no_duration_is_an_invalid_request(written: object) -> None:
    with pytest.raises(InvalidRequest, match="is not a duration"):
        parse_duration(written)


def test_a_number_of_five_thousand_digits_is_no_duration_and_no_size() -> None:
    for parse in (parse_duration, parse_size):
        with pytest.raises(InvalidRequest, match="this int is not a"):
            parse(10**5000)


@pytest.mark.parametrize(
    ("written", "size"),
    [("12GiB", 12 << 30), ("20MB", 20_000_000), ("20 mb", 20_000_000), ("512M", 512 << 20), (0, 0), ("7", 7), ("1.5k", 1536)],
)
def test_a_size_is_bytes(written: object, size: int) -> None:
    assert parse_size(written) == size


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_whatever_is_written_a_duration_and_a_size_parse_or_are_invalid(written: object) -> None:
    for parse in (parse_duration, parse_size):
        try:
            value = parse(written)
        except InvalidRequest:
            continue

        assert value >= 0
