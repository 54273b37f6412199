from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from myllm.engine.tokens import TokenBuffer, common_prefix

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_a_new_buffer_is_empty():
    assert len(TokenBuffer()) == 0
    assert TokenBuffer().view.tolist() == []


def test_a_buffer_does_not_share_the_array_it_was_made_of():
    source = array(1, 2, 3)
    buffer = TokenBuffer(source)

    source[0] = 9

    assert buffer.view.tolist() == [1, 2, 3]


def test_truncate_gives_back_what_it_cut():
    buffer = TokenBuffer([1, 2, 3, 4])

    cut = buffer.truncate(1)

    assert (buffer.view.tolist(), cut.tolist()) == ([1], [2, 3, 4])


def test_what_was_cut_off_does_not_come_back():
    buffer = TokenBuffer([1, 2, 3])
    buffer.truncate(1)

    buffer.append(7)

    assert buffer.view.tolist() == [1, 7]


def test_appending_moves_the_values_rarely():
    """Amortised constant time: twice as many tokens are one more move, not twice as many."""
    buffer = TokenBuffer()
    homes = set()

    for value in range(100_000):
        buffer.append(value)
        homes.add(buffer.view.ctypes.data)

    assert buffer.view.tolist() == list(range(100_000))
    assert len(homes) <= 14


def test_a_value_that_is_no_int32_is_refused():
    with pytest.raises(OverflowError):
        TokenBuffer([2**31])


@settings(derandomize=True, deadline=None)
@given(st.lists(st.one_of(TOKENS, st.integers(0, 30))))
def test_a_buffer_behaves_like_a_list(operations):
    """A list of tokens extends (appends, if it is one), a number truncates to it."""
    buffer, model = TokenBuffer(), []

    for operation in operations:
        if isinstance(operation, int):
            length = min(operation, len(model))
            assert buffer.truncate(length).tolist() == model[length:]
            del model[length:]
        elif len(operation) == 1:
            buffer.append(operation[0])
            model += operation
        else:
            buffer.extend(np.array(operation, np.int32))
            model += operation

        assert buffer.view.tolist() == model
        assert len(buffer) == len(model)


@pytest.mark.parametrize(
    ("a", "b", "limit", "expected"),
    [
        ((), (), 5, 0),
        ((1, 2), (), 5, 0),
        ((1, 2, 3), (1, 2, 4), 5, 2),
        ((1, 2, 3), (1, 2, 3, 4), 5, 3),
        ((1, 2, 3), (1, 2, 3), 2, 2),
        ((1, 2, 3), (2, 2, 3), 5, 0),
        ((1, 2, 3), (1, 2, 3), 0, 0),
        ((1, 2, 3), (1, 2, 3), -1, 0),
    ],
)
def test_the_common_prefix(a, b, limit, expected):
    assert common_prefix(array(*a), array(*b), limit) == expected


@settings(derandomize=True, deadline=None)
@given(TOKENS, TOKENS, st.integers(-1, 14))
def test_the_common_prefix_is_what_a_loop_finds(a, b, limit):
    expected = 0
    while expected < min(len(a), len(b), limit) and a[expected] == b[expected]:
        expected += 1

    assert common_prefix(array(*a), array(*b), limit) == expected
