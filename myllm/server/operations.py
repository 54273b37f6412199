"""`Operation`: an endpoint as the API's own reference tells it, with the types that the server really validates with.

Each dialect lists its operations beside its routes; `reference` makes `/openapi.json` and `/docs` of them, and a test
holds the two lists against each other, so that no route is missing and none is made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operation:
    """path: the whole one, with `{name}` for what varies. body, query, answer, event: msgspec types, None where there is none.

    event: what a line of the stream holds, where the endpoint can stream: a type, or a union of them. errors: the statuses of
    the error form that it may answer with, beside 401, 403, 413, 429, 500 and 503, which every operation that does work may.
    body_media, media, event_media: the content types; other_media: of other forms of the same answer, for those who prefer
    them. other_answers: status and type of further answers that do not have the error form. last_data: what the last event
    of a stream carries where that is no JSON. example: a body, where one made of its required fields would ask for nothing.
    """

    method: str
    path: str
    summary: str
    description: str = ""
    body: Any = None
    is_body_required: bool = True
    query: Any = None
    answer: Any = None
    event: Any = None
    status: int = 200
    errors: tuple[int, ...] = (400, 404)
    is_public: bool = False
    body_media: str = "application/json"
    media: str = "application/json"
    event_media: str = "text/event-stream"
    other_media: tuple[str, ...] = ()
    other_answers: tuple[tuple[int, Any], ...] = ()
    last_data: str | None = None
    example: dict[str, Any] | None = None
