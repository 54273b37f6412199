"""Bodies → requests of no dialect, held against what the model can do. What is not there yet is refused by its name."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from myllm.errors import InvalidRequest, UnsupportedByModel
from myllm.server.ollama.bodies import ChatBody, GenerateBody, RunBody, parse_messages
from myllm.server.ollama.names import full_name, quoted
from myllm.server.ollama.options import NUM_KEEP, Options
from myllm.server.ranges import LARGEST_INT32, keep_alive_s
from myllm.store.create import refuse_go_template
from myllm.store.store import InstalledModel
from myllm.types import ChatRequest, CompletionRequest, Message

THINKING = ("high", "medium", "low", "max")


class Model(Struct, frozen=True):
    """asked: the name in the request. parameters: the model's own, by the names of SamplingParams."""

    asked: str
    installed: InstalledModel
    parameters: dict[str, Any]

    def can(self, capability: str) -> bool:
        return capability in self.installed.capabilities

    @property
    def end_token(self) -> int | None:
        """What ends a turn."""
        metadata = self.installed.metadata
        return metadata.eos_token_id if metadata.eot_token_id is None else metadata.eot_token_id

    def require(self, capability: str) -> None:
        if not self.can(capability):
            raise UnsupportedByModel(f"{full_name(self.asked)} does not support {capability}", param="model")


def chat_request(body: ChatBody, model: Model, options: Options, engine: dict[str, Any], max_messages: int) -> ChatRequest:
    """Raises InvalidRequest that names what is wrong, UnsupportedByModel that names the capability."""
    if not model.can("completion"):
        raise UnsupportedByModel(f"{quoted(model.asked)} does not support chat", param="model")
    _refuse_for_now(body, model)
    if body.tools:
        model.require("tools")
        raise InvalidRequest("'tools' is not supported yet; leave it out", param="tools")
    for message in body.messages or ():
        _refuse_images(message.images, model)
    messages = parse_messages(body.messages or [], max_messages)
    return _chat(body, messages, model, options, engine)


def generate_request(body: GenerateBody, model: Model, options: Options, engine: dict[str, Any]) -> ChatRequest | CompletionRequest:
    """A chat of one message, unless the prompt is to go to the model as it is. Raises as `chat_request` does."""
    if body.raw and (body.template or body.system or body.context):
        raise InvalidRequest("raw mode does not support template, system, or context", param="raw")
    if not model.can("completion"):
        raise UnsupportedByModel(f"{quoted(model.asked)} does not support generate", param="model")
    _refuse_for_now(body, model)
    _refuse_images(body.images, model)
    if body.raw or body.suffix:
        return _completion(body, model, options, engine)
    system = (Message("system", body.system),) if body.system else ()
    if body.template:
        refuse_go_template(body.template)
    request = _chat(body, (*system, Message("user", body.prompt or "")), model, options, engine)
    return replace(request, before=tuple(body.context or ()), template=body.template or None)


def _chat(body: RunBody, messages: tuple[Message, ...], model: Model, options: Options, engine: dict[str, Any]) -> ChatRequest:
    last = messages[-1]
    return ChatRequest(
        model=model.asked,
        messages=messages,
        sampling=_sampling(body, model, options),
        keep_alive_s=keep_alive_s(body.keep_alive),
        continues_last=last.role == "assistant" and not last.tool_calls,  # as Ollama's templates leave it open
        trims=body.truncate is not False,
        context_size=options.context_size,
        num_keep=_num_keep(body, model, options),
        engine=engine,
    )


def _completion(body: GenerateBody, model: Model, options: Options, engine: dict[str, Any]) -> CompletionRequest:
    if body.suffix:
        model.require("insert")
        for name in ("system", "template", "context", "shift"):
            if getattr(body, name):
                raise InvalidRequest(f"'{name}' does nothing beside 'suffix'; leave one of them out", param=name)
    return CompletionRequest(
        model=model.asked,
        prompt=body.prompt or "",
        sampling=_sampling(body, model, options),
        keep_alive_s=keep_alive_s(body.keep_alive),
        suffix=body.suffix or None,
        context_size=options.context_size,
        num_keep=_num_keep(body, model, options),
        engine=engine,
    )


def _sampling(body: RunBody, model: Model, options: Options) -> dict[str, Any]:
    longest = model.installed.metadata.context_length or LARGEST_INT32
    return options.sampling_over(model.parameters, longest) | {"num_logprobs": body.num_logprobs}


def _num_keep(body: RunBody, model: Model, options: Options) -> int | None:
    """None where a prompt that is too long is not to be cut."""
    if body.truncate is False or body.shift is False:
        return None
    own = model.installed.num_keep
    return next(number for number in (options.num_keep, own, NUM_KEEP) if number is not None)


def _refuse_for_now(body: RunBody, model: Model) -> None:
    if body.format not in (None, ""):
        raise InvalidRequest("'format' is not supported yet; leave it out", param="format")
    if body.think is None or body.think is False:
        return
    if body.think is not True and body.think not in THINKING:
        shown = quoted(body.think[:40] if isinstance(body.think, str) else f"this {type(body.think).__name__}")
        takes = ", ".join(map(quoted, THINKING))
        raise InvalidRequest(f"invalid think value: {shown} (must be {takes}, true, or false)", param="think")
    if not model.can("thinking"):
        raise UnsupportedByModel(f"{quoted(model.asked)} does not support thinking", param="think")
    raise InvalidRequest("'think' is not supported yet; leave it out or send false", param="think")


def _refuse_images(images: list[str] | None, model: Model) -> None:
    if images:
        model.require("vision")
        raise InvalidRequest("'images' is not supported yet; leave it out", param="images")
