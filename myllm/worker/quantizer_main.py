"""The child that writes a model anew with smaller weights, and ends: llama.cpp takes minutes for it and every core.

It tells on stdout, a line each, how many bytes of the source are done. Why it failed is its last line on stderr. When the
server is gone it reads end-of-file and ends, whatever it is doing.

    python -m myllm.worker.quantizer_main SOURCE TARGET TYPE
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from myllm.engine.quantizer import quantize
from myllm.errors import MyLLMError

NICENESS = 10  # models that answer somebody go first


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the server, which ends us
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    os.nice(NICENESS)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    source, target, file_type = sys.argv[1:]
    try:
        quantize(Path(source), Path(target), file_type, threads, lambda num_bytes: print(num_bytes, flush=True))
    except MyLLMError as error:
        sys.exit(error.message)


def _end_with_the_server() -> None:
    while os.read(0, 1):  # not through sys.stdin, whose lock Python wants for itself when it ends
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
