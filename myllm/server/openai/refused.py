"""Fields of OpenAI's API that this server knows and does not honour yet: refused by name, unless they ask for nothing.

The official clients send some of them with values that change nothing (`tools: []`, `store: false`), so these pass. Fields
that are not listed anywhere are ignored, as OpenAI's servers do.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from myllm.errors import InvalidRequest

# field → (the values that ask for nothing beside null, why anything else is refused)
NOT_YET = "is not supported yet; leave it out"
_CHAT_ONLY = "belongs to chat completions and does nothing here; leave it out"
_COMPLETIONS_ONLY = "belongs to text completions and does nothing here; leave it out"
_ONE_ANSWER = "belongs to chats and completions: a response is one answer; leave it out"

CHAT: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), NOT_YET),
    "tool_choice": (("none",), NOT_YET),
    "functions": (([],), NOT_YET),
    "function_call": (("none",), NOT_YET),
    "response_format": (({"type": "text"},), NOT_YET),
    "reasoning_effort": (("none",), NOT_YET),
    "modalities": ((["text"], []), NOT_YET),
    "audio": ((), NOT_YET),
    "prediction": ((), NOT_YET),
    "web_search_options": ((), NOT_YET),
    "moderation": ((), NOT_YET),
    "store": ((False,), NOT_YET),
    "verbosity": (("medium",), NOT_YET),
    "echo": ((False,), _COMPLETIONS_ONLY),
    "suffix": (("",), _COMPLETIONS_ONLY),
}
COMPLETION: dict[str, tuple[tuple[Any, ...], str]] = {
    "messages": ((), "belongs to chat completions; send 'prompt'"),
    "session_id": ((), _CHAT_ONLY),
    "chat_template_kwargs": (({},), _CHAT_ONLY),
    "top_logprobs": ((), "belongs to chat completions; here 'logprobs' is the number of likeliest tokens"),
    "response_format": (({"type": "text"},), NOT_YET),
}
RESPONSE: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), NOT_YET),
    "tool_choice": (("auto", "none"), NOT_YET),
    "max_tool_calls": ((), NOT_YET),
    "reasoning": (({}, {"effort": "none"}), NOT_YET),
    "background": ((False,), NOT_YET),
    "background_options": ((), NOT_YET),
    "conversation": ((), "is not supported yet; go on with 'previous_response_id'"),
    "prompt": ((), "is not supported: this server keeps no prompts; send 'instructions' and 'input'"),
    "prompt_cache_options": (({},), NOT_YET),
    "prompt_cache_retention": ((), NOT_YET),
    "context_management": (([],), NOT_YET),
    "moderation": ((), NOT_YET),
    "image": ((), NOT_YET),
    "access_programs": ((), NOT_YET),
    "max_tokens": ((), "is called 'max_output_tokens' here"),
    "max_completion_tokens": ((), "is called 'max_output_tokens' here"),
    "messages": ((), "belongs to chat completions; send 'input'"),
    "session_id": ((), "belongs to chat completions; go on with 'previous_response_id'"),
    "n": ((1,), _ONE_ANSWER),
    "best_of": ((1,), _ONE_ANSWER),
    "logprobs": ((False,), "belongs to chats and completions; send 'include': [\"message.output_text.logprobs\"]"),
    "echo": ((False,), _COMPLETIONS_ONLY),
    "suffix": (("",), _COMPLETIONS_ONLY),
    "response_format": (({"type": "text"},), NOT_YET),
    "reasoning_effort": (("none",), NOT_YET),
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
