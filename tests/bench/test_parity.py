"""What bench/parity.py asks and how it counts; the servers themselves it needs to be run for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFReader
from parity import Answer, as_float, excerpt, first_difference, gaps_of, largest_gap, make_chats, num_equal

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"


def test_the_chats_are_the_same_in_every_run_and_nearly_all_different() -> None:
    chats = make_chats(60)

    assert chats == make_chats(60) != make_chats(60, seed=2)
    assert len({str(chat) for chat in chats}) >= 50


def test_the_chats_are_of_every_kind() -> None:
    chats = make_chats(60)

    assert {len(chat) for chat in chats} > {1, 2, 3}
    assert any(chat[0]["role"] == "system" for chat in chats)
    assert any(len(chat) > 40 for chat in chats)
    assert any(ord(letter) > 0xFFFF for chat in chats for message in chat for letter in message["content"])
    assert all(chat[-1]["role"] == "user" for chat in chats)


@pytest.mark.parametrize(("one", "other", "place"), [("abc", "abd", 2), ("", "a", 0), ("é", "è", 1), ("😀a", "😀b", 4), ("ab", "abc", 2)])
def test_the_first_difference_is_counted_in_bytes(one: str, other: str, place: int) -> None:
    assert first_difference(one, other) == place


def test_an_excerpt_that_cuts_a_character_leaves_it_out() -> None:
    assert excerpt("xéy", 2) == "'x▸y'"


def test_a_gap_belongs_to_the_token_that_covers_the_byte() -> None:
    tokens = [
        {"bytes": [97, 98], "top_logprobs": [{"logprob": -0.5}, {"logprob": -2.5}]},
        {"bytes": [255], "top_logprobs": [{"logprob": -1.0}, {"logprob": -1.25}]},
        {"bytes": [99], "top_logprobs": [{"logprob": -0.25}, {"logprob": -4.25}]},
    ]

    answer = Answer(1, "ab\ufffdc", "stop", tuple(gaps_of(tokens)))

    assert [answer.gap_at(place) for place in range(7)] == [2.0, 2.0, 0.25, 0.25, 0.25, 4.0, None]


def test_equal_answers_are_counted_by_what_is_asked() -> None:
    ours = [Answer(1, "a", "stop"), Answer(2, "b", "stop")]
    theirs = [Answer(1, "a", "length"), Answer(3, "b", "stop")]

    assert [num_equal(ours, theirs, what) for what in ("prompt_tokens", "text", "finish_reason")] == ["1/2", "2/2", "1/2"]


def test_the_largest_gap_is_of_the_answers_that_differ() -> None:
    theirs = [
        Answer(1, "ab", "stop", ((1, 0.5), (2, 9.0))),
        Answer(1, "ab", "stop", ((1, 9.0), (2, 0.25))),
        Answer(1, "ab", "stop", ((2, 9.0),)),
    ]
    ours = [Answer(1, "xb", "stop"), Answer(1, "ax", "stop"), Answer(1, "ab", "stop")]

    assert largest_gap(ours, theirs) == 0.5
    assert largest_gap(theirs, theirs) == 0.0


def test_a_quantised_model_becomes_one_of_32_bits_for_as_long_as_it_is_used() -> None:
    with as_float(TINY) as path:
        kinds = {tensor.tensor_type.name for tensor in GGUFReader(path).tensors}

    assert kinds == {"F32"}
    assert not path.exists()


def test_a_conversion_leaves_no_callback_of_llama_cpp_behind() -> None:
    """It had one for the log, which was freed when the conversion was done: the next model that was loaded crashed in it."""
    imports = "import sys; from pathlib import Path; from parity import as_float"
    program = f"{imports}\nwith as_float(Path(sys.argv[1])): print('llama_cpp' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program, str(TINY)], cwd=ROOT / "bench", capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "none.gguf", "--llama-server", sys.executable], "there is no file none.gguf"),
        (["--model", str(TINY), "--llama-server", "no-such-program"], "there is no program no-such-program"),
        (["--model", str(TINY), "--llama-server", sys.executable, "--count", "0"], "take 1 or more"),
        (["--model", str(TINY)], "--llama-server"),
    ],
)
def test_what_is_missing_is_told(arguments: list[str], told: str) -> None:
    command = [sys.executable, str(ROOT / "bench" / "parity.py"), "--myllm", sys.executable, *arguments]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2 and told in done.stderr
