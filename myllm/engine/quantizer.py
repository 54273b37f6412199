"""Writing a model anew with weights of another type, and how far that is.

llama.cpp has no callback for it: while it works it logs a line for each tensor, with its size before and after. Those are
added up here; what else it says goes where the engine's log goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from myllm.engine.llama import llama_log, quantize_model

_SIZE = re.compile(r"^size = +([\d.]+) MiB")


def quantize(source: Path, target: Path, file_type: str, threads: int, on_progress: Callable[[int], None]) -> None:
    """Write the model at `source`, all its parts, into `target`; on_progress gets how many bytes of the source are done.

    file_type: by llama.cpp's name, such as `Q4_K_M`. Raises ModelLoadFailed with llama.cpp's reason.
    """
    done_mib = 0.0

    def hear(level: int, text: bytes, user_data: Any) -> None:
        nonlocal done_mib
        llama_log.hear(level, text, user_data)
        if found := _SIZE.match(text.decode(errors="replace")):
            done_mib += float(found[1])
            on_progress(int(done_mib * (1 << 20)))

    quantize_model(source, target, file_type, threads, hear)
