"""Every method of both clients, at a real server."""

from __future__ import annotations

import threading

import msgspec
import pytest

import myllm
from myllm.client import calls

HELLO = "Hello! I am tiny, a small model that ships with MyLLM. How can I help you?"


def test_chat_answers_a_text(client):
    answer = client.chat("tiny", "Hello!", temperature=0)

    assert (answer.text, str(answer), answer.finish_reason, answer.reasoning) == (HELLO, HELLO, "stop", None)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 20
    assert (answer.message.role, answer.truncated_messages) == ("assistant", 0)


def test_chat_answers_a_list_of_messages(client):
    system = {"role": "system", "content": "Your name is Max."}

    answer = client.chat("tiny", [system, myllm.Message(role="user", content="What is your name?")], temperature=0)

    assert [message.role for message in client.read_session(answer.session_id).messages] == ["system", "user", "assistant"]


def test_a_conversation_goes_on_by_its_id(client):
    begun = client.chat("tiny", "My name is Brunhilde.", temperature=0)

    assert client.chat("tiny", "What is my name?", session_id=begun.session_id, temperature=0).text == "Your name is Brunhilde."


def test_options_reach_the_model(client):
    assert client.chat("tiny", "Hello!", temperature=0, stop=", a small").text == "Hello! I am tiny"
    assert client.chat("tiny", "Hello!", temperature=0, max_tokens=2).finish_reason == "length"


def test_a_streamed_chat_comes_in_pieces_and_is_the_same_text(client):
    with client.chat_stream("tiny", "Hello!", temperature=0) as stream:
        pieces = list(stream)

    assert len(pieces) > 10
    assert "".join(pieces) == stream.answer.text == HELLO
    assert client.read_session(stream.answer.session_id).num_messages == 2


def test_a_session_object_is_one_conversation(client):
    session = client.session()
    session.chat("tiny", "My name is Brunhilde.", temperature=0)
    with session.chat_stream("tiny", "What is my name?", temperature=0) as stream:
        text = "".join(stream)

    stored = session.read()
    assert text == "Your name is Brunhilde."
    assert (stored.id, stored.model, stored.num_messages) == (session.id, "tiny", 4)
    assert [message.finish_reason for message in stored.messages] == [None, "stop", None, "stop"]
    assert stored.created_at <= stored.updated_at
    assert stored.messages[1].usage.completion_tokens > 5


def test_a_session_object_may_be_of_a_chosen_id(client, request):
    session_id = f"my-project-{request.node.callspec.id}"

    client.session(session_id).chat("tiny", "Hello!")

    assert client.read_session(session_id).messages[0].content == "Hello!"


def test_a_session_is_forked_renamed_and_forgotten(client):
    session = client.session()
    session.chat("tiny", "Hello!")

    fork = session.fork(1)

    assert fork.id != session.id
    assert [message.role for message in fork.read().messages] == ["user"]
    assert fork.rename("A new title").title == "A new title"
    assert fork.id in [listed.id for listed in client.sessions()]
    assert fork.delete().message == f"Session '{fork.id}' deleted"
    with pytest.raises(myllm.SessionNotFound):
        fork.read()


def test_sessions_are_managed_by_their_ids_too(client):
    session_id = client.chat("tiny", "Hello!").session_id

    forked = client.fork_session(session_id)
    client.rename_session(forked.id, "Forked")

    newest, before = client.sessions(limit=2)
    assert (newest.id, newest.title, newest.num_messages) == (forked.id, "Forked", 2)
    assert client.sessions(limit=1, offset=1) == [before]
    client.delete_session(forked.id)
    assert forked.id not in [listed.id for listed in client.sessions(limit=1000)]


def test_generate_continues_a_text(client):
    completion = client.generate("tiny", "Once upon", temperature=0, max_tokens=5)

    assert (completion.text.startswith(" a time"), str(completion) == completion.text) == (True, True)
    assert (completion.usage.completion_tokens, completion.finish_reason) == (5, "length")


def test_a_streamed_continuation_is_the_same_text(connect, endless):
    client = connect(endless.url)
    whole = client.generate("endless", "Once upon", seed=7, max_tokens=20)

    with client.generate_stream("endless", "Once upon", seed=7, max_tokens=20) as stream:
        pieces = list(stream)

    assert "".join(pieces) == whole.text == stream.answer.text
    assert stream.answer.finish_reason == "length"


def test_embed_gives_a_vector_an_input(client):
    both = client.embed("tiny", ["Hello world", "Good morning"])
    one = client.embed("tiny", "Hello world")

    assert (both.model, len(both.embeddings), len(one.embeddings), len(one.embeddings[0])) == ("tiny", 2, 1, 256)
    assert one.embeddings[0] == pytest.approx(both.embeddings[0], abs=1e-3)
    assert both.usage.total_tokens == both.usage.prompt_tokens > one.usage.prompt_tokens


def test_tokens_there_and_back(client):
    tokens = client.tokenize("tiny", "Hello!<|eot_id|>")

    assert tokens == [740, 0, 1271]
    assert client.detokenize("tiny", tokens) == "Hello!<|eot_id|>"
    assert len(client.tokenize("tiny", "<|eot_id|>", parse_special=False)) > 1
    assert client.tokenize("tiny", "Hello!", add_special=True)[1:] == [740, 0]


def test_models_are_listed_and_told(client):
    listed = {model.name: model for model in client.models()}
    model = client.model("tiny")

    assert (listed["tiny"].family, listed["tiny"].details) == ("llama", None)
    assert "chat" in model.capabilities
    assert (model.loaded, model.status, model.context_size) == (True, "loaded", 2048)
    assert (model.details.source, model.details.parameter_count, model.details.tensor_types["F32"]["count"]) == ("bundled", 5049600, 13)
    assert model.modified_at.tzinfo is not None


def test_a_model_is_unloaded_and_loaded(client):
    assert client.unload("tiny").message == "Model 'tiny' unloaded"
    assert (client.model("tiny").loaded, client.status().models) == (False, [])

    assert client.load("tiny", parallel=4, keep_alive="1h", pin=True).message == "Model 'tiny' loaded"
    (line,) = client.status().models
    assert (line.name, line.status, line.parallel, line.pinned, line.expires_at) == ("tiny", "loaded", 4, True, None)

    client.unload("tiny")
    client.load("tiny", pin=False)


def test_status_tells_memory_and_models(client):
    status = client.status()

    assert status.version == myllm.__version__
    assert status.uptime_s > 0 and status.memory.total > status.memory.available > 0
    assert status.models[0].cells_total > 0


def test_health_is_told(client):
    assert client.health().status == "healthy"


@pytest.mark.parametrize("status", ["starting", "draining"])
def test_health_is_told_by_a_server_that_is_not_ready(status, stranger, connect):
    assert connect(stranger.answer(503, b'{"status":"%s"}' % status.encode())).health().status == status


def test_what_the_server_sent_can_be_had_as_it_came(client, server):
    sent = client.request(calls.model("tiny"))

    assert sent == server.http.get("/api/models/tiny").json()
    assert "digest" in sent["details"] or sent["digest"].startswith("sha256")


def test_text_survives_whatever_it_is_made_of(client):
    text = "a\u2028b\u2029c\x85\U0001f600\x00\r\n"

    session_id = client.chat("tiny", text, max_tokens=1).session_id

    assert client.read_session(session_id).messages[0].content == text
    assert client.detokenize("tiny", client.tokenize("tiny", text)) == text


def test_threads_share_a_client(server):
    answers: list[str] = []
    with myllm.Client(server.url) as client:
        threads = [threading.Thread(target=lambda: answers.append(client.chat("tiny", "Hello!", temperature=0).text)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == [HELLO] * 8


def test_results_of_a_newer_server_are_read(stranger, connect):
    sent = {"name": "tiny", "status": "dreaming", "mood": {"deep": [1]}, "modified_at": "2026-01-02T03:04:05.678Z"}

    model = connect(stranger.answer(200, msgspec.json.encode(sent))).model("tiny")

    assert (model.name, model.status, model.modified_at.year) == ("tiny", "dreaming", 2026)


def test_rerank_asks_and_reads_the_best_first(stranger, connect):
    url = stranger.answer(200, b'{"model":"r","results":[{"index":1,"relevance_score":0.9},{"index":0,"relevance_score":0.1}]}')

    ranking = connect(url).rerank("r", "what?", ["a", "b"], top_n=2)

    assert [(ranked.index, ranked.relevance_score) for ranked in ranking.results] == [(1, 0.9), (0, 0.1)]
    method, path, _, body = stranger.asked[0]
    assert (method, path) == ("POST", "/api/rerank")
    assert msgspec.json.decode(body) == {"model": "r", "query": "what?", "documents": ["a", "b"], "top_n": 2}
