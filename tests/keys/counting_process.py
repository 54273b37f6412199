"""Takes requests and tokens of a key until each is refused, in many threads, and prints how many it got of each.

Run as `python counting_process.py FILE KEY_ID THREADS`; it begins when a line comes in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from myllm.errors import RateLimited
from myllm.keys import KeyStore


def count(take: Callable[[], object]) -> int:
    taken = 0
    while True:
        try:
            take()
        except RateLimited:
            return taken
        taken += 1


def main(path: str, key_id: str, num_threads: str) -> None:
    store = KeyStore(Path(path))
    print("ready", flush=True)
    sys.stdin.readline()
    takes = [lambda: store.take_request(int(key_id)), lambda: store.reserve_tokens(int(key_id), 7)]
    with ThreadPoolExecutor(int(num_threads)) as pool:
        taken = [sum(pool.map(count, [take] * int(num_threads))) for take in takes]
    print(*taken, flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
