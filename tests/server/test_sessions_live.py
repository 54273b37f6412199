"""Sessions as clients see them: what was said is known later, in this process, the next one, and beside others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from live_server import LiveServer

NAMES = [
    "Ada", "Bruno", "Carla", "Dario", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas",
    "Karla", "Leon", "Marta", "Nina", "Oscar", "Paula", "Quinn", "Rosa", "Stefan", "Tilda",
]  # fmt: skip


def test_a_name_is_known_two_turns_later_and_after_a_restart(make_server: Callable[..., LiveServer]) -> None:
    server = make_server()
    session = server.chat("My name is Brunhilde.")["session_id"]

    server.chat("What is 3 + 4?", session_id=session)
    assert server.chat("What is my name?", session_id=session)["message"]["content"] == "Your name is Brunhilde."
    server.restart()

    assert server.chat("Do you remember my name?", session_id=session)["message"]["content"] == "Your name is Brunhilde."
    stored = server.http.get(f"/api/sessions/{session}").json()
    assert [message["role"] for message in stored["messages"]] == ["user", "assistant"] * 4
    assert stored["messages"][-1]["finish_reason"] == "stop"


def test_twenty_sessions_at_once_never_mix(server: LiveServer) -> None:
    def converse(name: str) -> str:
        session = f"mix-{name}"
        server.chat(f"My name is {name}.", session_id=session)
        server.chat("What is 2 + 2?", session_id=session)
        server.chat("Thanks!", session_id=session)
        answer: str = server.chat("What is my name?", session_id=session)["message"]["content"]
        return answer

    with ThreadPoolExecutor(len(NAMES)) as pool:
        answers = list(pool.map(converse, NAMES))

    assert answers == [f"Your name is {name}." for name in NAMES]


def test_requests_of_one_session_run_one_after_the_other(server: LiveServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: server.chat(f"What is {i} + 1?", session_id="queue"), range(8)))

    roles = [message["role"] for message in server.http.get("/api/sessions/queue").json()["messages"]]
    assert roles == ["user", "assistant"] * 8


def test_a_client_that_sends_the_whole_history_stores_only_what_is_new(server: LiveServer) -> None:
    history = [{"role": "user", "content": "My name is Ludmila."}]
    first = server.chat("", messages=history, session_id="resent")
    history += [first["message"], {"role": "user", "content": "What is my name?"}]

    second = server.chat("", messages=history, session_id="resent")

    assert second["message"]["content"] == "Your name is Ludmila."
    assert server.http.get("/api/sessions/resent").json()["num_messages"] == 4


def test_a_refused_turn_leaves_the_session_as_it_was(server: LiveServer) -> None:
    server.chat("My name is Ada.", session_id="refused")

    too_long = server.post("/api/chat", model="tiny", messages=[{"role": "user", "content": "word " * 3000}], session_id="refused")

    assert too_long.status_code == 400 and "2,048" in too_long.json()["detail"]
    assert server.http.get("/api/sessions/refused").json()["num_messages"] == 2
    assert server.chat("What is my name?", session_id="refused")["message"]["content"] == "Your name is Ada."


def test_a_history_over_the_context_loses_its_oldest_turns_but_never_the_system_message(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(MYLLM_CONTEXT_SIZE="512")
    system = {"role": "system", "content": "The secret word is zumbrek."}
    sums = [(f"What is {i} + 1?", f"{i} + 1 = {i + 1}") for i in range(20)]
    turns = [{"role": role, "content": text} for pair in sums for role, text in zip(("user", "assistant"), pair, strict=True)]
    question = {"role": "user", "content": "What is the secret word?"}

    answer = server.chat("", messages=[system, *turns, question], session_id="long")

    assert answer["message"]["content"] == "The secret word is zumbrek."
    assert 2 <= answer["truncated_messages"] < 40 and answer["truncated_messages"] % 2 == 0
    assert 512 // 2 < answer["usage"]["prompt_tokens"] <= 512 * 3 // 4  # as many turns as fit, and room for the answer
    assert server.http.get("/api/sessions/long").json()["num_messages"] == 43
    last = list(server.stream("/api/chat", model="tiny", messages=[question], session_id="long"))[-1]
    assert last["truncated_messages"] >= answer["truncated_messages"]


def test_sessions_are_listed_renamed_forked_and_deleted(server: LiveServer) -> None:
    server.chat("My name is Tilda.", session_id="kept")
    server.chat("What is my name?", session_id="kept")

    newest = server.http.get("/api/sessions?limit=1").json()["sessions"]
    assert [session["id"] for session in newest] == ["kept"]
    assert set(newest[0]) == {"id", "title", "model", "num_messages", "created_at", "updated_at"}
    assert server.http.get("/api/sessions?limit=1&offset=1").json()["sessions"] != newest

    assert server.http.patch("/api/sessions/kept", json={"title": "Tilda's"}).json()["title"] == "Tilda's"
    fork = server.post("/api/sessions/kept/fork", at=2).json()
    assert fork["num_messages"] == 2 and fork["id"] != "kept"
    assert server.chat("What is my name?", session_id=fork["id"])["message"]["content"] == "Your name is Tilda."

    assert server.http.delete("/api/sessions/kept").status_code == 200
    assert server.http.get("/api/sessions/kept").status_code == 404
    assert server.http.get(f"/api/sessions/{fork['id']}").json()["num_messages"] == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/sessions?limit=0", None, 400),
        ("GET", "/api/sessions?limit=x", None, 400),
        ("GET", "/api/sessions?offset=-1", None, 400),
        ("GET", "/api/sessions/none", None, 404),
        ("DELETE", "/api/sessions/none", None, 404),
        ("PATCH", "/api/sessions/none", {"title": "x"}, 404),
        ("PATCH", "/api/sessions/none", {}, 400),
        ("POST", "/api/sessions/none/fork", {"at": 1}, 404),
        ("GET", "/api/sessions/%00", None, 404),
        ("GET", "/api/sessions/..%2F..%2Fetc", None, 404),
    ],
)
def test_what_is_asked_of_no_session_is_told(server: LiveServer, method: str, path: str, body: object, status: int) -> None:
    response = server.http.request(method, path, json=body) if body is not None else server.http.request(method, path)

    assert response.status_code == status and response.json()["detail"]
