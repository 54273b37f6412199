"""Fields of OpenAI's API that this server knows and does not honour yet: refused by name, unless they ask for nothing.

The official clients send some of them with values that change nothing (`tools: []`, `store: false`), so these pass. Fields
that are not listed anywhere are ignored, as OpenAI's servers do.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from myllm.errors import InvalidRequest

# field → (the values that ask for nothing beside null, why anything else is refused)
_NOT_YET = "is not supported yet; leave it out"
_CHAT_ONLY = "belongs to chat completions and does nothing here; leave it out"
_COMPLETIONS_ONLY = "belongs to text completions and does nothing here; leave it out"

CHAT: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), _NOT_YET),
    "tool_choice": (("none",), _NOT_YET),
    "functions": (([],), _NOT_YET),
    "function_call": (("none",), _NOT_YET),
    "response_format": (({"type": "text"},), _NOT_YET),
    "reasoning_effort": (("none",), _NOT_YET),
    "modalities": ((["text"], []), _NOT_YET),
    "audio": ((), _NOT_YET),
    "prediction": ((), _NOT_YET),
    "web_search_options": ((), _NOT_YET),
    "moderation": ((), _NOT_YET),
    "store": ((False,), _NOT_YET),
    "verbosity": (("medium",), _NOT_YET),
    "echo": ((False,), _COMPLETIONS_ONLY),
    "suffix": (("",), _COMPLETIONS_ONLY),
}
COMPLETION: dict[str, tuple[tuple[Any, ...], str]] = {
    "messages": ((), "belongs to chat completions; send 'prompt'"),
    "session_id": ((), _CHAT_ONLY),
    "chat_template_kwargs": (({},), _CHAT_ONLY),
    "top_logprobs": ((), "belongs to chat completions; here 'logprobs' is the number of likeliest tokens"),
    "response_format": (({"type": "text"},), _NOT_YET),
}


def refuse(body: Struct, fields: dict[str, tuple[tuple[Any, ...], str]]) -> None:
    """Raises InvalidRequest for the first field that asks for what is not there."""
    for name, (harmless, reason) in fields.items():
        value = _told(getattr(body, name))
        if value is not None and not any(value == each and type(value) is type(each) for each in harmless):
            raise InvalidRequest(f"'{name}' {reason}", param=name)


def _told(value: Any) -> Any:
    """What an object's fields say; those that are null, as SDKs write out all that there are, say nothing."""
    return {name: each for name, each in value.items() if each is not None} if isinstance(value, dict) else value
