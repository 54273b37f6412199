"""Sixty-four streams at once on one model: every text equals its own when run alone, with room for all and without.

On a float copy of tiny: llama.cpp's kernels for quantised weights round differently for different batch sizes, so there
a near tie may fall the other way, whoever schedules (see docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from float_copy import write_float_copy
from live_server import LiveServer

TINY = Path(__file__).parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf"
NUM_STREAMS = 64
EXACT = {"MYLLM_KV_CACHE_TYPE": "f32", "MYLLM_FLASH_ATTENTION": "off"}  # flash attention rounds by the size of a chunk
# In these stories the best token leads the second by 0.009 at least, all the way: no rounding turns that around.
HEROES = ["dragon", "toaster", "cow", "robot", "ship", "cat", "fox", "lion"]
PROMPTS = [
    *(f"Tell me a story about a {hero}." for hero in HEROES),
    *(f"Count to {number}." for number in range(10, 34)),
    *(f"Repeat after me: blorp {number} quentap {number + 1}" for number in range(16)),
    *(f"What is {number} + {number % 7}?" for number in range(16)),
]


@pytest.fixture(scope="module")
def float_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_float_copy(TINY, tmp_path_factory.mktemp("float") / "tiny-f32.gguf")


def text_of(server: LiveServer, prompt: str) -> str:
    """Streamed, and held against the last event's own account of the whole."""
    body = {"model": "tiny-f32", "messages": [{"role": "user", "content": prompt}], "options": {"temperature": 0, "max_tokens": 150}}
    events = list(server.stream("/api/chat", **body))
    text = "".join(event.get("token", "") for event in events)
    assert events[-1].get("full_text") == text, events[-1]
    return text


def alone_and_together(server: LiveServer) -> tuple[list[str], list[str]]:
    alone = [text_of(server, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        return alone, list(pool.map(lambda prompt: text_of(server, prompt), PROMPTS))


def test_64_streams_at_once_each_equal_their_text_alone(make_server: Callable[..., LiveServer], float_tiny: Path) -> None:
    server = make_server(**EXACT, MYLLM_MODEL_DIRS=str(float_tiny.parent))

    alone, together = alone_and_together(server)

    assert together == alone and len(set(alone)) > 50
    assert server.status("tiny-f32")["preemptions"] == 0


def test_so_they_do_when_cells_run_out_and_sequences_are_preempted(make_server: Callable[..., LiveServer], float_tiny: Path) -> None:
    server = make_server(**EXACT, MYLLM_MODEL_DIRS=str(float_tiny.parent), MYLLM_CONTEXT_SIZE="512")

    alone, together = alone_and_together(server)

    assert together == alone
    assert server.status("tiny-f32")["preemptions"] > 0
