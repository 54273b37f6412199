"""What llama.cpp says while it works: its reasons for failing and what it allocated are told nowhere else.

It calls us back with lines of text, also before it aborts the process. Errors and warnings go to our own log; sizes of
buffers are added up; of all the rest nothing is kept.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from typing import Any

log = logging.getLogger("myllm.engine")

WARNING, ERROR = 3, 4  # GGML_LOG_LEVEL
# What llama.cpp warns of and we mean: the cells of all sequences exceed one's context, a generative model gets a pooling.
OURS_BY_DESIGN = ("n_ctx_train", "pooling_type")
BUFFER = re.compile(r"(\S+) (?:model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")


class LlamaLog:
    """One per process, as llama.cpp has one callback for all."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=8)
        self._buffer_mib: dict[str, float] = {}  # by llama.cpp's name of the kind: CPU_Mapped, CPU_REPACK, CUDA0, …

    def hear(self, level: int, text: bytes, _user_data: Any) -> None:
        """llama.cpp's callback."""
        message = text.decode(errors="replace").strip()
        if level == ERROR:
            self._errors.append(message)
            log.error("llama.cpp: %s", message)
        elif level == WARNING and not any(topic in message for topic in OURS_BY_DESIGN):
            log.info("llama.cpp: %s", message)
        elif found := BUFFER.search(message):
            self._buffer_mib[found[1]] = self._buffer_mib.get(found[1], 0.0) + float(found[2])

    def forget_errors(self) -> None:
        """Before a call that may fail, so that `reason` is about that one."""
        self._errors.clear()

    def reason(self) -> str:
        """What llama.cpp said about its failure; its first error is the cause, later ones repeat it."""
        return self._errors[0].split(": ", 1)[-1] if self._errors else "no reason was given"

    def mapped_bytes(self) -> int:
        """Bytes of weights that are used where the file is mapped; what was copied into another layout is not counted."""
        return int(max(self._buffer_mib.get("CPU_Mapped", 0.0) - self._buffer_mib.get("CPU_REPACK", 0.0), 0.0) * (1 << 20))

    def device_bytes(self) -> dict[str, int]:
        """Bytes that llama.cpp has allocated on each device that is not the CPU, by its own account."""
        devices = {name: mib for name, mib in self._buffer_mib.items() if not name.startswith("CPU") and not name.endswith("_Host")}
        return {name: int(mib * (1 << 20)) for name, mib in devices.items()}
