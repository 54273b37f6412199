"""GGUF files that somebody damaged, or made to do harm: each works or is refused, and the server outlives them all.

MYLLM_MUTANTS=100 tries more of them than every run does.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from live_server import LiveServer

TINY = (Path(__file__).parents[2] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf").read_bytes()
HEADER_BYTES = 45_000  # of tiny: keys, vocabulary and tensor table
NUM_MUTANTS = int(os.environ.get("MYLLM_MUTANTS", "20"))
LONGEST_S = 20.0


def flipped(rng: random.Random) -> bytes:
    """A few bits of the header turned."""
    data = bytearray(TINY)
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(HEADER_BYTES)] ^= 1 << rng.randrange(8)
    return bytes(data)


def overwritten(rng: random.Random) -> bytes:
    """A number in the header made huge, or a run of it made of one byte."""
    data, at = bytearray(TINY), rng.randrange(24, HEADER_BYTES)
    length = rng.choice((4, 8, 64))
    data[at : at + length] = bytes([rng.choice((0, 1, 0x7F, 0xFF))]) * length
    return bytes(data)


def cut(rng: random.Random) -> bytes:
    return TINY[: rng.randrange(len(TINY))]


def poisoned(rng: random.Random) -> bytes:
    """The weights, not the header: scales that are infinite or no numbers at all."""
    data = bytearray(TINY)
    for _ in range(2000):
        at = rng.randrange(HEADER_BYTES * 2, len(data) - 2)
        data[at : at + 2] = b"\x00\x7e"
    return bytes(data)


def shuffled(rng: random.Random) -> bytes:
    """Two pieces of the header change places."""
    data = bytearray(TINY)
    a, b = (rng.randrange(24, HEADER_BYTES - 64) for _ in range(2))
    data[a : a + 32], data[b : b + 32] = data[b : b + 32], data[a : a + 32]
    return bytes(data)


MUTATIONS: tuple[Callable[[random.Random], bytes], ...] = (flipped, overwritten, cut, poisoned, shuffled)


def test_mutated_files_work_or_are_refused_and_the_server_lives(make_server: Callable[..., LiveServer]) -> None:
    server = make_server("--threads", "1")
    folder = server.home / "models"
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[int] = []
    longest = 0.0

    for number in range(NUM_MUTANTS):
        rng = random.Random(number)
        (folder / f"mutant{number}.gguf").write_bytes(MUTATIONS[number % len(MUTATIONS)](rng))
        began = time.monotonic()
        response = server.post("/api/generate", model=f"mutant{number}", prompt="Once", options={"max_tokens": 8})
        longest = max(longest, time.monotonic() - began)
        outcomes.append(response.status_code)
        assert response.status_code == 200 or response.json()["detail"], response.text
        server.http.post(f"/api/models/mutant{number}/unload")
        (folder / f"mutant{number}.gguf").unlink()

    print(f"{outcomes.count(200)} worked, {len(outcomes) - outcomes.count(200)} were refused, the longest took {longest:.1f} s")
    assert set(outcomes) <= {200, 400, 500, 503} and server.process.poll() is None
    assert longest < LONGEST_S
    assert server.chat("Hello!")["message"]["content"].startswith("Hello! I am tiny")
