"""The whole wire between the server and a worker: every message there is, and how they are framed.

A frame is a little-endian uint32 length and that many bytes of MessagePack. No pickle: a worker has parsed somebody's
file and is not trusted with more than values. This border may later run over a network, so nothing above it assumes
that the worker is local, and no message carries a file descriptor or a pointer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from myllm.config import EngineOptions
from myllm.types import GPU, Delta, EngineStats, LoadPlan, ModelInfo, Prompt, SamplingParams

MAX_FRAME_BYTES = 1 << 30
_LENGTH = struct.Struct("<I")


class _Message(Struct, frozen=True, array_like=True, tag=True):
    pass


# server → worker


class Start(_Message, frozen=True, array_like=True, tag=True):
    """The first message: which file, under which name, with which options, and what was decided where they leave a choice."""

    name: str
    path: str
    options: EngineOptions
    plan: LoadPlan


class Generate(_Message, frozen=True, array_like=True, tag=True):
    """Answered by Accepted or Refused; then Stepped messages carry its deltas. Token ids win over the text.

    With a suffix, what lies between the prompt and it is generated; both are code then, and control tokens in them letters.
    """

    id: int
    params: SamplingParams
    prompt: Prompt = ()
    token_ids: list[int] | None = None
    suffix: str | None = None


class Cancel(_Message, frozen=True, array_like=True, tag=True):
    """Forget `id`, whatever it is; not answered."""

    id: int


class Embed(_Message, frozen=True, array_like=True, tag=True):
    """Answered by Embedded or Refused. Each input is a text or token ids."""

    id: int
    inputs: list[str | list[int]]


class Rank(_Message, frozen=True, array_like=True, tag=True):
    """Answered by Ranked or Refused: how well does each document answer the query?"""

    id: int
    query: str
    documents: list[str]


class Tokenize(_Message, frozen=True, array_like=True, tag=True):
    """Answered by Tokenized."""

    id: int
    prompt: Prompt
    add_special: bool


class Detokenize(_Message, frozen=True, array_like=True, tag=True):
    """Answered by Detokenized or Refused."""

    id: int
    token_ids: list[int]


class Ping(_Message, frozen=True, array_like=True, tag=True):
    """Answered by Pong, between two steps."""

    id: int


# worker → server


class Loading(_Message, frozen=True, array_like=True, tag=True):
    """How much of the file has been read, 0.0 to 1.0."""

    fraction: float


class Ready(_Message, frozen=True, array_like=True, tag=True):
    info: ModelInfo


class LoadFailed(_Message, frozen=True, array_like=True, tag=True):
    code: str
    message: str


class Accepted(_Message, frozen=True, array_like=True, tag=True):
    id: int
    num_prompt_tokens: int


class Refused(_Message, frozen=True, array_like=True, tag=True):
    id: int
    code: str
    message: str
    param: str | None


class Stepped(_Message, frozen=True, array_like=True, tag=True):
    """Everything that one step made, for all sequences."""

    deltas: list[Delta]
    stats: EngineStats


class Embedded(_Message, frozen=True, array_like=True, tag=True):
    """One float32 vector an input, L2-normalised, as raw little-endian bytes."""

    id: int
    vectors: list[bytes]
    num_tokens: int


class Ranked(_Message, frozen=True, array_like=True, tag=True):
    """One score a document, in their order, as the model gives it: larger is better, and there are no bounds."""

    id: int
    scores: list[float]
    num_tokens: int


class Tokenized(_Message, frozen=True, array_like=True, tag=True):
    id: int
    token_ids: list[int]


class Detokenized(_Message, frozen=True, array_like=True, tag=True):
    id: int
    content: str


class Devices(_Message, frozen=True, array_like=True, tag=True):
    """What a worker that was started without a model says, and ends: the machine's GPUs."""

    gpus: list[GPU]


class Pong(_Message, frozen=True, array_like=True, tag=True):
    id: int
    stats: EngineStats


ToWorker = Start | Generate | Cancel | Embed | Rank | Tokenize | Detokenize | Ping
Reply = Accepted | Refused | Embedded | Ranked | Tokenized | Detokenized | Pong
FromWorker = Loading | Ready | LoadFailed | Stepped | Devices | Reply

_encoder = msgspec.msgpack.Encoder()
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


def encode(message: ToWorker | FromWorker) -> bytes:
    """The message as one frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Bytes in as they come, whole frames out."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies of the frames that are complete now. Raises ValueError on a length that no message has."""
        self._data += data
        at = 0
        while len(self._data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data, at)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length:,} bytes")
            end = at + _LENGTH.size + length
            if len(self._data) < end:
                break
            yield bytes(self._data[at + _LENGTH.size : end])
            at = end
        del self._data[:at]
