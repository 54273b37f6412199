"""The ranges of numbers that several dialects take, as types: an error that names one and the reference are made from these."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from myllm.errors import InvalidRequest
from myllm.quantities import parse_duration

LARGEST_INT32 = 2**31 - 1

Temperature = Annotated[float, Meta(ge=0, le=2)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
RepeatPenalty = Annotated[float, Meta(ge=0, le=1e6)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
TopK = Annotated[int, Meta(ge=-1, le=LARGEST_INT32)]  # -1 and 0 are off
Count = Annotated[int, Meta(ge=1, le=LARGEST_INT32)]
TokenID = Annotated[int, Meta(ge=0, le=LARGEST_INT32)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Meta(min_length=1)]
StopStrings = Annotated[list[StopString], Meta(max_length=16)]


def keep_alive_s(value: str | float | None) -> float | None:
    """Seconds of a request's `keep_alive`; None where it has none. Raises InvalidRequest."""
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest("'keep_alive' takes seconds or a duration such as 5m", param="keep_alive")
    try:
        return parse_duration(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"'keep_alive': {error.message}", param="keep_alive") from error
