"""Each row of the two parameter tables of the Inferneo API, in their order, and each extra: what it does, on both endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from live_server import wait_until
from openai_calls import HELLO, Calls, asked

CHAT, COMPLETIONS = "/chat/completions", "/completions"
BODIES: dict[str, dict[str, Any]] = {CHAT: asked("Tell me a story about a fox."), COMPLETIONS: {"prompt": "Once upon a time"}}
both = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


def tokens_of(exact: Calls, text: str) -> list[int]:
    tokens: list[int] = exact.server.post("/api/tokenize", model=exact.model, content=text).json()["tokens"]
    return tokens


def texts(exact: Calls, path: str, **body: Any) -> list[str]:
    answer = exact.whole(path, **BODIES[path], **body)
    return [choice["text"] if path == COMPLETIONS else choice["message"]["content"] for choice in answer["choices"]]


# Common parameters


@both
def test_model_is_required_and_named_where_it_is_missing_or_unknown(exact: Calls, path: str) -> None:
    missing = exact.server.http.post("/v1" + path, json=BODIES[path])
    unknown = exact.error(path, 404, **BODIES[path], model="org/no:such")

    assert missing.status_code == 400 and missing.json()["error"]["param"] == "model"
    assert unknown["code"] == "model_not_found" and unknown["param"] == "model" and "tiny" in unknown["message"]


@both
def test_max_tokens_bounds_the_answer(exact: Calls, path: str) -> None:
    answer = exact.whole(path, **BODIES[path], max_tokens=3, temperature=0)

    assert answer["usage"]["completion_tokens"] == 3 and answer["choices"][0]["finish_reason"] == "length"


def test_max_tokens_is_16_by_default_for_completions_and_the_rest_of_the_context_for_chats(exact: Calls) -> None:
    completion = exact.complete(ignore_eos=True)
    chat = exact.chat("Tell me a story about a fox.")

    assert completion["usage"]["completion_tokens"] == 16 and completion["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["completion_tokens"] > 16 and chat["choices"][0]["finish_reason"] == "stop"


@both
def test_max_completion_tokens_is_another_name_for_max_tokens(exact: Calls, path: str) -> None:
    answer = exact.whole(path, **BODIES[path], max_completion_tokens=3)
    exact.whole(path, **BODIES[path], max_completion_tokens=3, max_tokens=3)
    refused = exact.error(path, **BODIES[path], max_completion_tokens=3, max_tokens=4)

    assert answer["usage"]["completion_tokens"] == 3
    assert refused["param"] == "max_completion_tokens" and "3" in refused["message"] and "4" in refused["message"]


@both
def test_temperature_of_0_repeats_the_likeliest_answer_and_a_high_one_does_not(exact: Calls, path: str) -> None:
    first, second = (texts(exact, path, temperature=0, max_tokens=12, seed=seed) for seed in (1, 2))
    wild = [texts(exact, path, temperature=2, max_tokens=12, seed=seed)[0] for seed in (1, 2)]

    assert first == second and wild[0] != wild[1]


@both
def test_temperature_is_1_by_default_and_not_the_models_own(exact: Calls, path: str) -> None:
    unsaid, said = (texts(exact, path, max_tokens=30, seed=7, **given) for given in ({}, {"temperature": 1.0}))
    as_the_model_likes_it = texts(exact, path, max_tokens=30, seed=7, temperature=0.2, top_k=40, top_p=0.95, min_p=0.05)

    assert unsaid == said != as_the_model_likes_it


@both
def test_top_p_of_next_to_nothing_leaves_the_likeliest_token(exact: Calls, path: str) -> None:
    assert texts(exact, path, temperature=2, top_p=1e-9, max_tokens=8) == texts(exact, path, temperature=0, max_tokens=8)


@both
def test_top_k_of_1_leaves_the_likeliest_token(exact: Calls, path: str) -> None:
    assert texts(exact, path, temperature=2, top_k=1, max_tokens=8) == texts(exact, path, temperature=0, max_tokens=8)


@both
def test_top_k_of_minus_1_and_of_0_are_off_and_the_default(exact: Calls, path: str) -> None:
    body = {"temperature": 2, "seed": 3, "max_tokens": 12}

    unsaid, minus_1, off, two = (texts(exact, path, **body, **given) for given in ({}, {"top_k": -1}, {"top_k": 0}, {"top_k": 2}))

    assert unsaid == minus_1 == off != two


@both
def test_frequency_penalty_grows_with_each_time_that_a_token_came(exact: Calls, path: str) -> None:
    (token,) = tokens_of(exact, "!")
    body = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "logit_bias": {str(token): 40}}

    (plain,), (unsaid,), (penalised,) = (
        texts(exact, path, **body, **given) for given in ({"frequency_penalty": 0}, {}, {"frequency_penalty": 2})
    )

    assert plain == unsaid == "!" * 40 and 5 < len(penalised) - len(penalised.lstrip("!")) < 40


@both
def test_presence_penalty_is_the_same_however_often_a_token_came(exact: Calls, path: str) -> None:
    likely, second = tokens_of(exact, "!")[0], tokens_of(exact, "?")[0]
    body = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "logit_bias": {str(likely): 100, str(second): 96}}

    (plain,), (unsaid,), (by_presence,), (by_frequency,) = (
        texts(exact, path, **body, **given) for given in ({"presence_penalty": 0}, {}, {"presence_penalty": 2}, {"frequency_penalty": 2})
    )

    assert plain == unsaid and set(by_frequency) == {"!", "?"}
    assert plain.count("?") <= by_presence.count("?") < by_frequency.count("?")


@both
def test_stop_ends_the_text_before_the_string(exact: Calls, path: str) -> None:
    (whole,) = texts(exact, path, temperature=0, max_tokens=30)
    stop = whole[8:12]
    answer = exact.whole(path, **BODIES[path], temperature=0, max_tokens=30, stop=stop)
    (listed,) = texts(exact, path, temperature=0, max_tokens=30, stop=["never said", stop])

    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop" and listed == whole[: whole.index(stop)] == choice.get("text", listed)


@both
def test_stop_takes_16_strings_and_none_that_is_empty(exact: Calls, path: str) -> None:
    exact.whole(path, **BODIES[path], max_tokens=1, stop=[f"s{number}" for number in range(16)])
    exact.whole(path, **BODIES[path], max_tokens=1, stop=[])

    for stop in ([f"s{number}" for number in range(17)], "", [""]):
        assert exact.error(path, **BODIES[path], stop=stop)["param"].startswith("stop")


@both
def test_stream_is_off_by_default_and_streams_where_it_is_true(exact: Calls, path: str) -> None:
    plain = exact.post(path, **BODIES[path], max_tokens=1, temperature=0)
    body = {"model": exact.model, **BODIES[path], "max_tokens": 1}
    accepting = exact.server.http.post(f"/v1{path}", json=body, headers={"accept": "text/event-stream"})
    events = exact.post(path, **BODIES[path], max_tokens=1, temperature=0, stream=True)

    assert plain.headers["content-type"] == accepting.headers["content-type"] == "application/json"
    assert events.headers["content-type"].startswith("text/event-stream") and events.headers["x-accel-buffering"] == "no"


def test_logprobs_of_a_completion_are_the_number_of_likeliest_tokens(exact: Calls) -> None:
    choice = exact.complete(logprobs=3, max_tokens=6)["choices"][0]
    logprobs = choice["logprobs"]

    assert "".join(logprobs["tokens"]) == choice["text"] and len(logprobs["tokens"]) == 6
    assert all(value <= 0 for value in logprobs["token_logprobs"]) and all(len(top) == 3 for top in logprobs["top_logprobs"])
    assert all(top[token] == value == max(top.values()) for token, value, top in zip(*list(logprobs.values())[:3], strict=True))
    assert logprobs["text_offset"] == [len("".join(logprobs["tokens"][:at])) for at in range(6)]


def test_logprobs_of_0_tell_the_picked_token_alone_and_none_is_the_default(exact: Calls) -> None:
    told, untold = exact.complete(logprobs=0, max_tokens=2), exact.complete(max_tokens=2)

    assert [list(top) for top in told["choices"][0]["logprobs"]["top_logprobs"]] == [
        [token] for token in told["choices"][0]["logprobs"]["tokens"]
    ]
    assert untold["choices"][0]["logprobs"] is None


def test_logprobs_tell_the_picked_token_also_where_it_is_none_of_the_likeliest(exact: Calls) -> None:
    (token,) = tokens_of(exact, "!")
    logprobs = exact.complete(logprobs=2, max_tokens=1, logit_bias={str(token): 100})["choices"][0]["logprobs"]

    assert logprobs["tokens"] == ["!"] and len(logprobs["top_logprobs"][0]) == 3
    assert logprobs["top_logprobs"][0]["!"] == logprobs["token_logprobs"][0] == min(logprobs["top_logprobs"][0].values())


def test_logprobs_of_a_chat_are_true_and_top_logprobs_the_number(exact: Calls) -> None:
    choice = exact.chat(logprobs=True, top_logprobs=2, max_tokens=5)["choices"][0]
    tokens = choice["logprobs"]["content"]

    assert "".join(token["token"] for token in tokens) == choice["message"]["content"] and len(tokens) == 5
    for token in tokens:
        assert bytes(token["bytes"]).decode() == token["token"] and len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["token"] == token["token"] and token["top_logprobs"][0]["logprob"] == token["logprob"] <= 0


def test_logprobs_of_a_chat_may_be_the_number_itself_or_tell_no_others(exact: Calls) -> None:
    by_number = exact.chat(logprobs=2, max_tokens=2)["choices"][0]["logprobs"]
    alone = exact.chat(logprobs=True, max_tokens=2)["choices"][0]["logprobs"]

    assert [len(token["top_logprobs"]) for token in by_number["content"]] == [2, 2]
    assert [token["top_logprobs"] for token in alone["content"]] == [[], []]
    assert exact.chat(logprobs=False, max_tokens=2)["choices"][0]["logprobs"] is None


def test_logprobs_of_characters_of_several_tokens_keep_the_text_and_tell_the_bytes(exact: Calls) -> None:
    choice = exact.chat("Repeat after me: 😀 你好", logprobs=True, top_logprobs=1)["choices"][0]
    tokens = choice["logprobs"]["content"]

    assert "".join(token["token"] for token in tokens) == choice["message"]["content"] and "😀" in choice["message"]["content"]
    assert bytes(byte for token in tokens for byte in token["bytes"]).decode() == choice["message"]["content"]
    assert any(token["token"] == "" and token["top_logprobs"][0]["token"].startswith("bytes:\\x") for token in tokens)


def test_top_logprobs_need_logprobs(exact: Calls) -> None:
    assert exact.error(CHAT, **BODIES[CHAT], top_logprobs=2)["param"] == "top_logprobs"
    assert exact.error(CHAT, **BODIES[CHAT], top_logprobs=2, logprobs=False)["param"] == "top_logprobs"
    assert exact.error(CHAT, **BODIES[CHAT], top_logprobs=2, logprobs=3)["param"] == "logprobs"
    assert exact.error(COMPLETIONS, **BODIES[COMPLETIONS], top_logprobs=2)["param"] == "top_logprobs"


def test_echo_repeats_the_prompt_before_the_text(exact: Calls) -> None:
    plain, echoed = exact.text(), exact.text(echo=True)

    assert echoed == "Once upon a time" + plain and exact.text(echo=False) == plain


def test_echo_of_tokens_is_their_text(exact: Calls) -> None:
    prompt = exact.server.post("/api/tokenize", model=exact.model, content="Once upon a time", add_special=True).json()["tokens"]

    texts = [exact.text(prompt, echo=True, max_tokens=2), exact.text(prompt, echo=True, logprobs=1, max_tokens=2)]

    assert texts[0] == texts[1] and texts[0].endswith("Once upon a time" + exact.text(prompt, max_tokens=2))


def test_echo_with_logprobs_covers_the_prompt_and_its_first_entry_is_null(exact: Calls) -> None:
    choice = exact.complete(echo=True, logprobs=2, max_tokens=2)["choices"][0]
    text, tokens, values, likeliest, offsets = choice["text"], *choice["logprobs"].values()

    assert "".join(tokens) == text and text.startswith("Once upon a time") and values[0] is None and likeliest[0] is None
    assert all(value <= 0 and len(top) in (2, 3) for value, top in zip(values[1:], likeliest[1:], strict=True))
    assert all(text[at:].startswith(token) for at, token in zip(offsets, tokens, strict=True)) and offsets[-1] > len("Once upon a time")


def test_echo_belongs_to_completions(exact: Calls) -> None:
    assert exact.error(CHAT, **BODIES[CHAT], echo=True)["param"] == "echo"
    exact.chat(echo=False, max_tokens=1)


# Advanced parameters


@both
def test_best_of_returns_the_likeliest_of_its_candidates(exact: Calls, path: str) -> None:
    body = {"max_tokens": 10, "temperature": 1.5, "seed": 5, "logprobs": 0 if path == COMPLETIONS else True}

    candidates = exact.whole(path, **BODIES[path], **body, n=6)["choices"]
    best = exact.whole(path, **BODIES[path], **body, n=2, best_of=6)

    ranked = sorted(candidates, key=mean, reverse=True)
    assert [text(choice) for choice in best["choices"]] == [text(choice) for choice in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1] and mean(ranked[0]) > mean(ranked[-1])


def mean(choice: dict[str, Any]) -> float:
    logprobs = choice["logprobs"]
    told = logprobs["token_logprobs"] if "token_logprobs" in logprobs else [token["logprob"] for token in logprobs["content"]]
    return sum(told) / len(told)


def text(choice: dict[str, Any]) -> str:
    found: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return found


@both
def test_best_of_tells_no_logprobs_unasked_and_counts_all_candidates(exact: Calls, path: str) -> None:
    answer = exact.whole(path, **BODIES[path], best_of=3, max_tokens=4, ignore_eos=True)

    assert len(answer["choices"]) == 1 and answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 12


@both
def test_best_of_is_n_or_more_and_not_streamed(exact: Calls, path: str) -> None:
    assert exact.error(path, **BODIES[path], n=3, best_of=2)["param"] == "best_of"
    assert exact.error(path, **BODIES[path], best_of=2, stream=True)["param"] == "best_of"
    assert exact.stream(path, **BODIES[path], best_of=1, max_tokens=1).reasons == ["length"]


@both
def test_n_gives_that_many_choices_and_counts_the_prompt_once(exact: Calls, path: str) -> None:
    one = exact.whole(path, **BODIES[path], max_tokens=5, seed=1, ignore_eos=True)
    three = exact.whole(path, **BODIES[path], max_tokens=5, seed=1, ignore_eos=True, n=3)

    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"] and three["usage"]["completion_tokens"] == 15


@both
def test_logit_bias_of_100_makes_a_token_the_only_one_and_of_minus_100_bans_it(exact: Calls, path: str) -> None:
    (token,) = tokens_of(exact, "!")
    (plain,) = texts(exact, path, temperature=0, max_tokens=1)
    (first,) = tokens_of(exact, plain)

    assert texts(exact, path, temperature=1, max_tokens=4, logit_bias={str(token): 100}) == ["!!!!"]
    assert texts(exact, path, temperature=0, max_tokens=1, logit_bias={str(first): -100}) != [plain]


@both
@pytest.mark.parametrize("bias", [{"5": 101}, {"five": 1}, {"99999999": 1}, {"-1": 1}, {"5": "1"}, [1], {"9" * 30: 1}])
def test_logit_bias_takes_token_ids_and_minus_100_to_100(exact: Calls, path: str, bias: Any) -> None:
    assert exact.error(path, **BODIES[path], logit_bias=bias)["param"].startswith("logit_bias")


def test_suffix_is_what_the_text_leads_to_on_a_model_that_fills_in(exact: Calls) -> None:
    body = {"prompt": "def add(a, b):\n    return ", "max_tokens": 12}

    plain, filled = exact.text(**body), exact.text(**body, suffix="\n\nprint(add(1, 2))\n")

    assert filled != plain and "print(add" not in filled
    assert exact.text(**body, suffix="") == exact.text(**body, suffix=None) == plain


def test_suffix_belongs_to_completions(exact: Calls) -> None:
    assert exact.error(CHAT, **BODIES[CHAT], suffix="end")["param"] == "suffix"


@both
def test_user_is_in_the_log_with_the_answers_id(exact: Calls, path: str) -> None:
    answer = exact.whole(path, **BODIES[path], max_tokens=1, user="somebody-42")

    wait_until(lambda: any(answer["id"] in line and "somebody-42" in line for line in exact.server.log), "the user is in the log")
    assert exact.error(path, **BODIES[path], user=42)["param"] == "user"


# Extras


@both
def test_seed_repeats_an_answer_and_another_seed_does_not(exact: Calls, path: str) -> None:
    body = {**BODIES[path], "temperature": 1.3, "max_tokens": 20}

    first, second, other = (exact.whole(path, **body, seed=seed)["choices"][0] for seed in (7, 7, 8))

    assert text(first) == text(second) != text(other)


@both
def test_seed_gives_each_choice_the_next_seed(exact: Calls, path: str) -> None:
    body = {**BODIES[path], "temperature": 1.3, "max_tokens": 20}

    together = [text(choice) for choice in exact.whole(path, **body, seed=7, n=3)["choices"]]
    alone = [text(exact.whole(path, **body, seed=seed)["choices"][0]) for seed in (7, 8, 9)]

    assert together == alone and len(set(together)) == 3


@both
@pytest.mark.parametrize("seed", [-1, None])
def test_seed_of_minus_1_draws_one_as_none_does(exact: Calls, path: str, seed: int | None) -> None:
    drawn = {texts(exact, path, temperature=2, max_tokens=20, seed=seed)[0] for _ in range(3)}

    assert len(drawn) > 1


@both
@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 0])
def test_seed_may_be_any_integer_of_64_bits_with_several_choices_too(exact: Calls, path: str, seed: int) -> None:
    assert len(texts(exact, path, max_tokens=1, seed=seed, n=2)) == 2


@both
def test_min_p_of_1_leaves_the_likeliest_token(exact: Calls, path: str) -> None:
    assert texts(exact, path, temperature=2, min_p=1, max_tokens=8) == texts(exact, path, temperature=0, max_tokens=8)


@pytest.mark.parametrize("name", ["repeat_penalty", "repetition_penalty"])
def test_repeat_penalty_has_two_names_and_keeps_tokens_from_coming_again(exact: Calls, name: str) -> None:
    say_twice = "Repeat after me: hello hello hello"

    assert exact.say(say_twice, **{name: 5.0}, max_tokens=30) != exact.say(say_twice) == exact.say(say_twice, **{name: 1.0})


def test_repeat_penalty_under_both_names_must_be_one_number(exact: Calls) -> None:
    exact.chat(repeat_penalty=1.5, repetition_penalty=1.5, max_tokens=1)

    assert exact.error(CHAT, **BODIES[CHAT], repeat_penalty=1.5, repetition_penalty=2)["param"] == "repetition_penalty"


def test_ignore_eos_goes_on_to_the_limit(exact: Calls) -> None:
    ended, going_on = exact.chat(max_tokens=60), exact.chat(max_tokens=60, ignore_eos=True)

    assert (ended["choices"][0]["finish_reason"], going_on["choices"][0]["finish_reason"]) == ("stop", "length")
    assert going_on["usage"]["completion_tokens"] == 60


def test_chat_template_kwargs_reach_the_template(exact: Calls) -> None:
    plain, thinking = (exact.chat(chat_template_kwargs=given, max_tokens=1) for given in ({}, {"enable_thinking": True}))

    assert thinking["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_logprobs_do_not_change_the_text(exact: Calls) -> None:
    assert exact.say(logprobs=True, top_logprobs=20) == exact.say() == HELLO
