"""What chats and completions take, asked of `/v1/responses`: it does the same there, or it is refused and the way told."""

from __future__ import annotations

from typing import Any

import pytest
from openai_calls import HELLO, Calls, asked

PATH = "/responses"


def respond(exact: Calls, said: str = "Hello!", **fields: Any) -> dict[str, Any]:
    response = exact.post(PATH, **{"input": said, "temperature": 0} | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def say(exact: Calls, said: str = "Hello!", **fields: Any) -> str:
    text: str = respond(exact, said, **fields)["output"][0]["content"][0]["text"]
    return text


def test_logit_bias_of_100_makes_a_token_the_only_one(exact: Calls) -> None:
    (token,) = exact.server.post("/api/tokenize", model=exact.model, content="!").json()["tokens"]

    assert say(exact, max_output_tokens=4, logit_bias={str(token): 100}) == "!!!!"


def test_ignore_eos_goes_on_to_the_limit(exact: Calls) -> None:
    answer = respond(exact, max_output_tokens=60, ignore_eos=True)

    assert (answer["status"], answer["usage"]["output_tokens"]) == ("incomplete", 60)


@pytest.mark.parametrize("name", ["repeat_penalty", "repetition_penalty"])
def test_repeat_penalty_has_two_names(exact: Calls, name: str) -> None:
    say_twice = "Repeat after me: hello hello hello"

    assert say(exact, say_twice, **{name: 5.0}, max_output_tokens=30) != say(exact, say_twice)
    assert exact.error(PATH, input="x", repeat_penalty=1.5, repetition_penalty=2)["param"] == "repetition_penalty"


def test_chat_template_kwargs_reach_the_template(exact: Calls) -> None:
    plain, thinking = (respond(exact, chat_template_kwargs=given, max_output_tokens=1) for given in ({}, {"enable_thinking": True}))

    assert thinking["usage"]["input_tokens"] > plain["usage"]["input_tokens"]


def test_seed_repeats_an_answer_and_minus_1_draws_one(exact: Calls) -> None:
    story = "Tell me a story about a fox."

    first, second, other = (say(exact, story, seed=seed, temperature=1.3, max_output_tokens=20) for seed in (7, 7, 8))
    drawn = {say(exact, story, seed=-1, temperature=2, max_output_tokens=20) for _ in range(3)}

    assert first == second != other and len(drawn) > 1


@pytest.mark.parametrize(
    ("fields", "way_out"),
    [
        ({"max_tokens": 5}, "'max_output_tokens'"),
        ({"max_completion_tokens": 5}, "'max_output_tokens'"),
        (asked("Hello!"), "'input'"),
        ({"session_id": "s"}, "'previous_response_id'"),
        ({"n": 2}, "leave it out"),
        ({"best_of": 2}, "leave it out"),
        ({"logprobs": True}, "'include'"),
        ({"echo": True}, "leave it out"),
        ({"suffix": "x"}, "leave it out"),
        ({"response_format": {"type": "json_object"}}, "leave it out"),
        ({"reasoning_effort": "high"}, "leave it out"),
    ],
    ids=lambda given: "+".join(given) if isinstance(given, dict) else "",
)
def test_what_belongs_to_the_older_endpoints_is_refused_and_the_way_told(exact: Calls, fields: dict[str, Any], way_out: str) -> None:
    error = exact.error(PATH, **{"input": "Hello!"} | fields)

    assert [error["param"]] == list(fields) and way_out in error["message"]


def test_where_it_asks_for_nothing_it_passes(exact: Calls) -> None:
    harmless: dict[str, Any] = {
        "max_tokens": None,
        "n": 1,
        "best_of": 1,
        "logprobs": False,
        "echo": False,
        "suffix": "",
        "response_format": {"type": "text"},
        "reasoning_effort": "none",
        "logit_bias": {},
        "chat_template_kwargs": {},
    }

    assert say(exact, **harmless) == HELLO
