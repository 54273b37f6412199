from __future__ import annotations

from typing import Any

import pytest
from live_server import wait_until
from ollama_calls import HELLO, OllamaCalls, ask, with_defaults

from myllm.errors import InvalidRequest
from myllm.server.ollama.options import DEFAULTS, read_options

STORY = "Tell me a story about a dragon."


def test_the_defaults_are_ollamas_and_a_models_own_go_over_them() -> None:
    sampling = read_options(None).sampling_over({"top_p": 0.5}, 2048)

    assert sampling == {name: value for name, value in DEFAULTS.items() if name != "top_p"}
    assert (DEFAULTS["temperature"], DEFAULTS["top_k"], DEFAULTS["top_p"], DEFAULTS["min_p"]) == (0.8, 40, 0.9, 0.0)
    assert (DEFAULTS["repeat_penalty"], DEFAULTS["penalty_last_n"], DEFAULTS["typical_p"]) == (1.0, 64, 1.0)


def test_a_requests_options_go_over_the_models_own() -> None:
    options = read_options({"temperature": 0, "top_k": -1, "repeat_last_n": 0, "stop": "x", "num_predict": 8, "seed": 3})
    sampling = options.sampling_over({"temperature": 0.2, "max_tokens": 4, "stop": ("y",)}, 2048)

    assert {name: sampling[name] for name in ("temperature", "top_k", "penalty_last_n", "stop", "max_tokens", "seed")} == {
        "temperature": 0,
        "top_k": 0,
        "penalty_last_n": 0,
        "stop": ("x",),
        "max_tokens": 8,
        "seed": 3,
    }


@pytest.mark.parametrize("number", [-1, -2])
def test_no_bound_lifts_the_models_own(number: int) -> None:
    options = read_options({"num_predict": number, "seed": -1})

    assert options.sampling_over({"max_tokens": 4}, 2048)["max_tokens"] == 2048
    assert "max_tokens" not in options.sampling_over({}, 2048) and "seed" not in options.sampling_over({}, 2048)
    assert options.sampling_over({"seed": 3}, 2048)["seed"] != options.sampling_over({"seed": 3}, 2048)["seed"]


def test_what_the_engine_may_choose_is_no_wish() -> None:
    options = read_options({"num_gpu": -1, "num_thread": 0, "num_ctx": 0, "num_batch": 128})

    assert options.engine == {"batch_size": 128} and options.context_size is None


def test_a_context_is_never_smaller_than_ollamas_smallest() -> None:
    assert read_options({"num_ctx": 1}).context_size == 4


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("num_ctx", "4096", "integer"),
        ("num_ctx", True, "integer"),
        ("num_predict", 1.5, "integer"),
        ("seed", "x", "integer"),
        ("num_keep", None.__class__.__name__, "integer"),
        ("top_k", [40], "integer"),
        ("temperature", "0.5", "float32"),
        ("top_p", False, "float32"),
        ("use_mmap", 1, "boolean"),
        ("stop", {}, "array of strings"),
        ("stop", [1], "array of strings"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_with_its_type(name: str, value: Any, kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f'^option "{name}" must be of type {kind}$') as caught:
        read_options({name: value})

    assert caught.value.param == f"options.{name}"


@pytest.mark.parametrize(("name", "value"), [("temperature", 2.5), ("top_p", -0.1), ("num_ctx", -1), ("num_predict", -3), ("seed", 2**70)])
def test_an_option_out_of_range_is_refused_with_its_range(ollama: OllamaCalls, name: str, value: float) -> None:
    status, words = ollama.error("generate", {"model": "tiny", "prompt": "x", "options": {name: value}})

    assert status == 400 and words.startswith(f'option "{name}" is ') and "it takes" in words


def test_whole_floats_are_integers(ollama: OllamaCalls) -> None:
    assert ollama.answer("generate", prompt=STORY, options={"num_predict": 3.0, "top_k": 1.0})["eval_count"] == 3


def test_names_that_nobody_knows_are_logged_and_left_out(ollama: OllamaCalls) -> None:
    answer = ollama.answer("generate", prompt="Hello!", options={"mirostat": 2, "tfs_z": 1.0, "low_vram": True, "num_gqa": "x"})

    assert answer["response"] == HELLO
    wait_until(lambda: [line for line in ollama.server.log if "4 in all: 'mirostat', 'tfs_z'" in line], "the options are in the log")


def test_however_many_names_nobody_knows_the_log_has_one_line_of_them(caplog: pytest.LogCaptureFixture) -> None:
    read_options({f"{number} is no option": number for number in range(1000)})

    [line] = caplog.messages
    assert "1,000" in line and "'0 is no option'" in line and len(line) < 500


def test_num_predict_ends_an_answer_and_says_so(ollama: OllamaCalls) -> None:
    for path, body in (("generate", {"prompt": STORY}), ("chat", {"messages": ask(STORY)})):
        answer = ollama.answer(path, **body, options={"num_predict": 5})

        assert (answer["eval_count"], answer["done_reason"]) == (5, "length")


def test_a_stop_text_ends_an_answer_and_is_not_told(ollama: OllamaCalls) -> None:
    for stop in ("small", ["never", "small"]):
        lines = ollama.lines("generate", prompt="Hello!", options={"stop": stop})

        assert "".join(line["response"] for line in lines) == "Hello! I am tiny, a "
        assert lines[-1]["done_reason"] == "stop"


def test_a_seed_of_minus_one_is_none(ollama: OllamaCalls) -> None:
    hot = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "num_predict": 40, "seed": -1}

    texts = {ollama.answer("generate", prompt=STORY, options=hot)["response"] for _ in range(3)}

    assert len(texts) > 1


def test_repeating_can_be_made_dear(ollama: OllamaCalls) -> None:
    told = ollama.answer("generate", prompt="Count to 10.")["response"]
    penalised = ollama.answer("generate", prompt="Count to 10.", options={"repeat_penalty": 1.9, "repeat_last_n": -1})["response"]

    assert told == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10" != penalised


def test_a_model_is_loaded_anew_for_other_engine_options_and_stays_so(own: OllamaCalls) -> None:
    server = own.server
    own.unload_all()
    own.answer("generate", prompt="Hello!")
    pids = [server.worker_pids()]
    for options in ({"num_batch": 256}, {"num_batch": 256}, {}, {"num_thread": 1}):
        assert own.answer("generate", prompt="Hello!", options=options)["response"] == HELLO
        wait_until(lambda: len(server.worker_pids()) == 1, "the old worker is gone")
        pids.append(server.worker_pids())
    own.unload_all()

    assert pids[0] != pids[1] == pids[2] == pids[3] != pids[4]


def test_options_that_are_wrong_are_refused_before_a_stream_begins(ollama: OllamaCalls) -> None:
    response = ollama.send("generate", with_defaults({"prompt": "x", "options": {"top_k": "x"}}))

    assert response.status_code == 400 and response.json() == {"error": 'option "top_k" must be of type integer'}
