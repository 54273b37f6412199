"""The Python client: `Client` and `AsyncClient` over the native HTTP API, and the values that they return.

    calls        what each request is: method, path, body, how its answer is read; pure
    options      the keywords that requests take                results      what they return
    events       bytes of a stream → its pieces; pure            streams      when they are read
    connection   the server's place, headers, time limits, errors; no network
    sync_client, async_client    the network, and the methods that people call

A call is described once and sent by both clients. The verbs of the command line are built on this room too, so there is one
HTTP client in the house; it is imported when it is needed, for httpx takes longer to load than `myllm --help` to run.
"""

from __future__ import annotations

from myllm.client.async_client import AsyncClient, AsyncSession
from myllm.client.options import ChatOptions, LoadOptions, Options
from myllm.client.results import (
    Answer,
    Completion,
    Done,
    Embeddings,
    Health,
    LoadedModel,
    Memory,
    Message,
    Model,
    ModelDetails,
    PullProgress,
    Ranked,
    Ranking,
    SessionInfo,
    Status,
    StoredMessage,
    StoredSession,
)  # fmt: skip
from myllm.client.streams import AsyncStream, Stream
from myllm.client.sync_client import Client, Session
from myllm.types import Usage

__all__ = [
    "Answer", "AsyncClient", "AsyncSession", "AsyncStream", "ChatOptions", "Client", "Completion", "Done", "Embeddings", "Health",
    "LoadOptions", "LoadedModel", "Memory", "Message", "Model", "ModelDetails", "Options", "PullProgress", "Ranked", "Ranking", "Session",
    "SessionInfo", "Status", "StoredMessage", "StoredSession", "Stream", "Usage",
]  # fmt: skip
