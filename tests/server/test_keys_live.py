"""Keys and limits at a real server, with keys that its file holds and `myllm keys` beside it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import EVENT_S, LiveServer, wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from myllm.keys import KeyStore

KEYS: dict[str, dict[str, Any]] = {
    "boss": {"scope": "admin"},
    "alice": {},
    "bob": {},
    "hasty": {"rpm": 10},
    "thrifty": {"tpm": 600},
    "talker": {"rpm": 2},
    "tiny-budget": {"rpm": 50, "tpm": 20},
    "frugal": {"tpm": 1000},
    "modest": {"tpm": 500},
    "talkative": {"tpm": 300},
    "payer": {"tpm": 100_000},
    "small": {"tpm": 150},
    "leaver": {"tpm": 100_000},
}
MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]
ENDLESS = {"model": "endless", "prompt": "Once upon a time", "stream": True}


class Locked:
    """A server with keys, and a client for each. folder: where it finds models beside tiny."""

    def __init__(self, home: Path, folder: Path) -> None:
        home.mkdir()
        with closing(KeyStore(home / "keys.db")) as store:
            self.secrets = {name: store.create(name, **limits) for name, limits in KEYS.items()}
        self.server = LiveServer(home, "--model", "tiny", "--api-key", "given", MYLLM_MODEL_DIRS=str(folder))

    def __enter__(self) -> Locked:
        wait_until(lambda: self.server.http.get("/health").status_code == 200, "the model was loaded at start")
        return self

    def __exit__(self, *error: object) -> None:
        self.server.stop()

    def client(self, name: str, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, headers={"authorization": f"Bearer {self.secrets[name]}"} | headers, timeout=EVENT_S)

    def post(self, name: str, path: str, **body: Any) -> httpx.Response:
        with self.client(name) as client:
            return client.post(path, json=body)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, endless_path: Path) -> Iterator[Locked]:
    with Locked(tmp_path_factory.mktemp("locked") / "home", endless_path.parent) as locked:
        yield locked


def myllm_keys(home: Path, *arguments: str) -> str:
    """What `myllm keys …` prints to stdout."""
    command = [sys.executable, "-m", "myllm.cli.main", "keys", *arguments]
    environment = {"MYLLM_HOME": str(home), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def tokenize(locked: Locked, name: str) -> httpx.Response:
    return locked.post(name, "/api/tokenize", model="tiny", content="hello")


def used_tokens(locked: Locked, name: str) -> int:
    """Of the key's minute, with what is reserved of it; nothing else tells it."""
    with closing(sqlite3.connect(locked.server.home / "keys.db")) as file:
        return int(file.execute("SELECT minute_tokens FROM keys WHERE name = ?", (name,)).fetchone()[0])


def num_generated(locked: Locked, model: str) -> int:
    """Tokens, since the server started."""
    metrics = locked.server.http.get("/metrics", headers={"x-api-key": "given"}).text
    told = re.search(rf'^myllm_generated_tokens_total{{model="{model}"}} (\S+)', metrics, re.MULTILINE)
    return int(float(told[1])) if told else 0


def limits(response: httpx.Response) -> tuple[str | None, ...]:
    return tuple(response.headers.get(f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset"))


def test_without_a_key_only_the_public_paths_answer(locked: Locked) -> None:
    statuses = {path: locked.server.http.get(path).status_code for path in ("/", "/health", "/api/models", "/api/status", "/nowhere")}
    refused = locked.server.post("/api/chat", model="tiny", messages=[{"role": "user", "content": "Hello!"}])

    assert statuses == {"/": 200, "/health": 200, "/api/models": 401, "/api/status": 401, "/nowhere": 401}
    assert refused.status_code == 401 and list(refused.json()) == ["detail"] and "Authorization: Bearer" in refused.json()["detail"]


def test_a_refusal_has_the_form_of_the_dialect_that_owns_the_path(locked: Locked) -> None:
    no_key = locked.server.http.get("/v1/models").json()["error"]
    too_much = locked.post("tiny-budget", "/v1/completions", model="tiny", prompt="Once", max_tokens=100).json()["error"]
    unload = locked.post("alice", "/v1/completions", model="tiny", prompt="Once", max_tokens=1, keep_alive=0).json()["error"]

    assert (no_key["type"], no_key["code"]) == ("authentication_error", "invalid_api_key")
    assert too_much["code"] == "rate_limit_exceeded"
    assert (unload["type"], unload["code"]) == ("permission_error", "insufficient_scope")


def test_a_page_can_read_why_it_was_refused(locked: Locked) -> None:
    refused = locked.server.http.post("/v1/chat/completions", headers={"origin": "http://localhost:3000"}, json={})

    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "X-RateLimit-Remaining" in refused.headers["access-control-expose-headers"]


def test_a_websocket_needs_a_key_and_each_message_counts(locked: Locked) -> None:
    url = locked.server.url.replace("http", "ws") + "/v1/chat/completions"
    request = '{"model": "tiny", "stream": false, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello!"}]}'

    with pytest.raises(InvalidStatus, match="401"):
        connect(url, proxy=None)
    with connect(f"{url}?api_key={locked.secrets['talker']}", proxy=None) as socket:
        answers = []
        for _ in range(3):
            socket.send(request)
            answers.append((json.loads(socket.recv(EVENT_S)), json.loads(socket.recv(EVENT_S))))

    assert ["error" in answer for answer, _ in answers] == [False, False, True]
    assert answers[2][0]["error"]["code"] == "rate_limit_exceeded"
    assert [done for _, done in answers] == [{"done": True}] * 3


def test_a_websocket_that_is_refused_has_its_line_in_the_log_and_no_error(locked: Locked) -> None:
    """uvicorn wrote an error for each, with which a stranger could fill the log."""
    with pytest.raises(InvalidStatus, match="401"):
        connect(locked.server.url.replace("http", "ws") + "/v1/chat/completions?mark=1", proxy=None)

    wait_until(lambda: [line for line in locked.server.log if "WEBSOCKET /v1/chat/completions 401" in line], "it was logged")
    assert [line for line in locked.server.log if "handshake" in line or "ERROR" in line] == []


def test_a_key_given_to_the_server_may_do_everything_without_limits(locked: Locked) -> None:
    with httpx.Client(base_url=locked.server.url, headers={"x-api-key": "given"}, timeout=EVENT_S) as client:
        loaded = client.post("/api/models/tiny/load")

    assert loaded.status_code == 200 and limits(loaded) == (None, None, None)


def test_no_key_is_written_to_the_log_or_to_the_files(locked: Locked) -> None:
    tokenize(locked, "alice")
    with connect(f"{locked.server.url.replace('http', 'ws')}/v1/chat/completions?api_key={locked.secrets['bob']}", proxy=None):
        pass
    files = [file for file in locked.server.home.rglob("*") if file.is_file()]

    written = b"".join(file.read_bytes() for file in files) + "\n".join(locked.server.log).encode()

    assert (locked.server.home / "keys.db") in files and b"alice" in written
    assert [name for name, secret in locked.secrets.items() if secret[13:].encode() in written] == []


def test_scope_inference_uses_models_and_only_admin_changes_them(locked: Locked) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    work: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/models/tiny/load", {}),
        ("POST", "/api/models/tiny/unload", {}),
        ("POST", "/api/models/pull", {"name": "no/such"}),
        ("DELETE", "/api/models/nothing", {}),
        ("POST", "/api/chat", {"model": "tiny", "messages": messages, "keep_alive": 0}),
        ("POST", "/api/generate", {"model": "tiny", "prompt": "Once", "keep_alive": "0s", "options": {"max_tokens": 1}}),
    ]

    with locked.client("alice") as alice:
        refused = [alice.request(method, path, json=body) for method, path, body in work]
        used = [
            alice.post("/api/chat", json={"model": "tiny", "messages": messages, "keep_alive": "5m", "options": {"max_tokens": 1}}),
            alice.post("/api/embeddings", json={"model": "tiny", "input": "hello"}),
            alice.get("/api/models"),
            alice.get("/api/sessions"),
        ]
    with locked.client("boss") as boss:
        done = [boss.request(method, path, json=body).status_code for method, path, body in work if path != "/api/models/pull"]

    assert [response.status_code for response in refused] == [403] * 6
    assert all("the key 'alice' has the scope 'inference'" in response.json()["detail"] for response in refused)
    assert [response.status_code for response in used] == [200] * 4
    assert done == [200, 200, 404, 200, 200]


def test_a_session_is_its_keys_and_an_admins(locked: Locked) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "My name is Ada."}], "session_id": "diary"}
    assert locked.post("alice", "/api/chat", **body).status_code == 200

    with locked.client("alice") as alice, locked.client("bob") as bob, locked.client("boss") as boss:
        seen = [[s["id"] for s in client.get("/api/sessions").json()["sessions"]] for client in (alice, bob, boss)]
        read = [client.get("/api/sessions/diary").status_code for client in (alice, bob, boss)]
        stolen = [
            bob.post("/api/chat", json=body).status_code,
            bob.patch("/api/sessions/diary", json={"title": "mine"}).status_code,
            bob.post("/api/sessions/diary/fork").status_code,
            bob.delete("/api/sessions/diary").status_code,
        ]
        kept = alice.get("/api/sessions/diary").json()

    assert ["diary" in ids for ids in seen] == [True, False, True]
    assert read == [200, 404, 200]
    assert stolen == [404] * 4
    assert (kept["num_messages"], kept["title"]) == (2, "My name is Ada.")


def test_of_a_hundred_requests_at_once_exactly_the_ten_of_the_minute_are_served_also_over_a_restart(tmp_path: Path) -> None:
    with Locked(tmp_path / "home", tmp_path) as locked:
        began = time.time()
        with ThreadPoolExecutor(100) as pool:
            responses = list(pool.map(lambda _: tokenize(locked, "hasty"), range(100)))
        ended = time.time()
        locked.server.restart()
        after, other = tokenize(locked, "hasty"), tokenize(locked, "alice")

    served = [response for response in responses if response.status_code == 200]
    refused = [response for response in responses if response.status_code == 429]
    resets = {int(response.headers["x-ratelimit-reset"]) for response in responses}
    assert (len(served), len(refused)) == (10, 90)
    assert sorted(int(response.headers["x-ratelimit-remaining"]) for response in served) == list(range(10))
    assert {limits(response)[:2] for response in refused} == {("10", "0")}
    assert len(resets) == 1 and began + 60 <= resets.pop() <= ended + 61
    assert all(1 <= int(response.headers["retry-after"]) <= 60 for response in refused)
    assert "key 'hasty' has made its 10 requests of the minute" in refused[0].json()["detail"]
    assert (after.status_code, limits(after), other.status_code) == (429, limits(refused[0]), 200)


def test_streams_at_once_never_use_more_than_the_tokens_of_the_minute(locked: Locked) -> None:
    body = {"model": "tiny", "prompt": "Once upon a time", "stream": True, "options": {"max_tokens": 100, "ignore_eos": True}}

    def generate(_: int) -> tuple[int, int]:
        """Status, and tokens used."""
        with locked.client("thrifty") as client, client.stream("POST", "/api/generate", json=body) as response:
            lines = list(response.iter_lines())
        if response.status_code != 200:
            assert int(response.headers["retry-after"]) >= 1 and "of its 600 of the minute" in lines[0]
            return response.status_code, 0
        usage = next(line for line in lines if '"done":true' in line)
        return 200, int(usage.partition('"total_tokens":')[2].partition(",")[0].rstrip("}"))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(generate, range(20)))

    told = Counter(status for status, _ in answers)
    assert set(told) == {200, 429} and told[200] == 5
    assert 500 < sum(used for _, used in answers) <= 600


def test_an_answer_that_can_never_fit_says_so_before_its_first_byte(locked: Locked) -> None:
    refused = locked.post("tiny-budget", "/api/generate", model="tiny", prompt="Once", stream=True, options={"max_tokens": 100})
    served = locked.post("tiny-budget", "/api/generate", model="tiny", prompt="Once", options={"max_tokens": 3})

    assert refused.status_code == 429 and "never fit; lower max_tokens" in refused.json()["detail"]
    assert served.status_code == 200 and limits(served)[0] == "50"


def test_inputs_of_embeddings_at_once_never_have_more_than_the_tokens_of_the_minute(locked: Locked) -> None:
    """What was reserved was guessed from the bytes, and a text of signs has three times as many tokens."""
    with ThreadPoolExecutor(12) as pool:
        asked = list(pool.map(lambda _: locked.post("frugal", "/api/embeddings", model="tiny", input="?!()" * 70), range(12)))

    served = [response for response in asked if response.status_code == 200]
    assert {response.status_code for response in asked} == {200, 429}
    assert sum(response.json()["usage"]["total_tokens"] for response in served) <= 1000


def test_an_answer_without_max_tokens_takes_what_a_small_budget_has(locked: Locked) -> None:
    """A key of fewer tokens a minute than a slice was refused with advice to lower what it had not said."""
    told = locked.post("modest", "/api/generate", model="tiny", prompt="Once upon a time")

    assert told.status_code in (200, 429)
    assert "never fit" not in told.text


def test_a_stream_ends_with_the_limits_error_when_its_minute_is_used_up_and_not_before(locked: Locked) -> None:
    body = {"model": "tiny", "prompt": "Once upon a time", "stream": True, "options": {"ignore_eos": True}}

    with locked.client("talkative") as client, client.stream("POST", "/api/generate", json=body) as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]

    assert response.status_code == 200
    assert "key 'talkative' has" in events[-1]["error"] and events[-1]["done"] is True
    assert 250 < used_tokens(locked, "talkative") <= 300


def test_choices_of_one_prompt_pay_what_their_usage_tells(locked: Locked) -> None:
    before = used_tokens(locked, "payer")
    choices = locked.post("payer", "/v1/chat/completions", model="tiny", messages=MESSAGES, n=4, max_tokens=5).json()["usage"]
    between = used_tokens(locked, "payer")
    candidates = locked.post("payer", "/v1/completions", model="tiny", prompt="Once upon", best_of=4, max_tokens=5).json()["usage"]
    after = used_tokens(locked, "payer")

    assert (between - before, after - between) == (choices["total_tokens"], candidates["total_tokens"])


def test_a_refused_request_for_several_choices_pays_for_none_of_them(locked: Locked) -> None:
    refused = locked.post("small", "/v1/chat/completions", model="tiny", messages=MESSAGES, n=4, max_tokens=30)

    assert refused.status_code == 429
    assert used_tokens(locked, "small") == 0


def test_what_a_client_that_leaves_has_been_told_is_paid_and_the_rest_given_back(locked: Locked) -> None:
    before, generated_before = used_tokens(locked, "payer"), num_generated(locked, "endless")
    with locked.client("payer") as client, client.stream("POST", "/api/generate", json=ENDLESS) as response:
        lines = (line for line in response.iter_lines() if line)
        told = [next(lines) for _ in range(20)]

    def is_settled() -> bool:
        """What it has used is what was generated, and its prompt: no more stays reserved."""
        used = used_tokens(locked, "payer") - before
        return len(told) < used <= num_generated(locked, "endless") - generated_before + num_prompt_tokens

    num_prompt_tokens = len(locked.post("alice", "/api/tokenize", model="endless", content=ENDLESS["prompt"]).json()["tokens"]) + 1
    wait_until(is_settled, "what was reserved is given back")


def test_a_stream_of_a_revoked_key_ends_where_it_would_reserve_more(locked: Locked) -> None:
    with locked.client("leaver") as client, client.stream("POST", "/api/generate", json=ENDLESS) as response:
        lines = (line for line in response.iter_lines() if line)
        next(lines)
        myllm_keys(locked.server.home, "revoke", "leaver")
        last = list(lines)[-1]

    assert "this API key has been revoked" in last


def test_embeddings_spend_tokens_too(locked: Locked) -> None:
    refused = locked.post("tiny-budget", "/api/embeddings", model="tiny", input="word " * 50)

    assert refused.status_code == 429 and "tokens" in refused.json()["detail"]


def test_keys_made_and_revoked_beside_a_running_server_are_seen(make_server: Callable[..., LiveServer]) -> None:
    server = make_server()
    assert server.http.get("/api/models").status_code == 200

    secret = myllm_keys(server.home, "create", "alice").strip()
    wait_until(lambda: server.http.get("/api/models").status_code == 401, "the server asks for keys")
    with httpx.Client(base_url=server.url, headers={"x-api-key": secret}, timeout=EVENT_S) as alice:
        assert alice.get("/api/models").status_code == 200
        myllm_keys(server.home, "create", "bob")
        myllm_keys(server.home, "revoke", "alice")
        wait_until(lambda: alice.get("/api/models").status_code == 401, "the key is refused")

    myllm_keys(server.home, "revoke", "bob")
    wait_until(lambda: server.http.get("/api/models").status_code == 200, "the server asks for no key any more")


@pytest.mark.parametrize(("given", "warns"), [("nothing", True), ("setting", False), ("stored", False)])
def test_only_a_server_without_keys_warns_that_everybody_who_reaches_it_can_use_it(given: str, warns: bool, tmp_path: Path) -> None:
    home = tmp_path / "home"
    if given == "stored":
        myllm_keys(home, "create", "alice")

    server = LiveServer(home, "--host", "0.0.0.0", **({"MYLLM_API_KEYS": "secret"} if given == "setting" else {}))
    server.stop()

    assert any("with no API key" in line for line in server.log) is warns
