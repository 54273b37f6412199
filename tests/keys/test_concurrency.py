"""Threads and processes that share a key, with real ones of each."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import myllm.keys
from myllm.errors import RateLimited
from myllm.keys import KeyStore, Standing

ROOT = Path(myllm.keys.__file__).parents[2]
PROGRAM = Path(__file__).with_name("counting_process.py")


def test_processes_of_many_threads_get_together_what_the_limits_allow(path: Path) -> None:
    store = KeyStore(path)
    key = store.find(store.create("alice", rpm=300, tpm=2_000).encode())
    assert key is not None
    command = [sys.executable, str(PROGRAM), str(path), str(key.id), "5"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"

    told = [process.communicate("go\n")[0].split() for process in processes]

    requests, tokens = ([int(each) for each in column] for column in zip(*told, strict=True))
    assert sum(requests) == 300
    assert sum(tokens) == 2_000 // 7
    store.close()


def test_each_of_many_threads_is_told_another_remainder(store: KeyStore) -> None:
    key = store.find(store.create("alice", rpm=10).encode())
    assert key is not None
    barrier = Barrier(30)

    def take(_: int) -> Standing | None:
        barrier.wait()
        try:
            return store.take_request(key.id)
        except RateLimited:
            return None

    with ThreadPoolExecutor(30) as pool:
        standings = [standing for standing in pool.map(take, range(30)) if standing is not None]

    assert sorted(standing.remaining for standing in standings) == list(range(10))
    assert len({standing.reset_epoch_s for standing in standings}) == 1
