"""Whole answers: models, chats, completions and embeddings. Pure functions of replies that have ended."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from myllm.errors import Unavailable
from myllm.reply import Choices, Reply
from myllm.server.openai.answers import (
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    CompletionAnswer,
    CompletionChoice,
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsUsage,
    FinishWord,
    ModelAnswer,
    PromptTokensDetails,
    UsageAnswer,
    WholeModelAnswer,
)  # fmt: skip
from myllm.server.openai.bodies import ChatBody, CompletionBody
from myllm.server.openai.identity import Identity
from myllm.server.openai.logprobs import aligned, chat_logprobs, completion_logprobs
from myllm.service import Embeddings
from myllm.store.store import InstalledModel
from myllm.types import FinishReason


def finish_word(reason: FinishReason | None) -> FinishWord:
    """Raises Unavailable for an answer that was called off: a part of it is no answer, and the API has no word for that."""
    if reason is FinishReason.STOP:
        return "stop"
    if reason is FinishReason.LENGTH:
        return "length"
    raise unloaded()


def unloaded() -> Unavailable:
    return Unavailable("the model was unloaded during the answer; ask again", retry_after_s=1)


def usage_of(replies: Sequence[Reply], num_candidates: int) -> UsageAnswer:
    """num_candidates: of one prompt; the prompt is counted with its first, all were generated."""
    firsts = [reply.usage for reply in replies[::num_candidates]]
    prompt, completion = sum(usage.prompt_tokens for usage in firsts), sum(reply.usage.completion_tokens for reply in replies)
    return UsageAnswer(prompt, completion, prompt + completion, PromptTokensDetails(sum(usage.cached_tokens for usage in firsts)))


def best(replies: Sequence[Reply], num_candidates: int, num_choices: int) -> list[Reply]:
    """Of each prompt's candidates the likeliest, a token on average, in that order; all as they are where none is dropped."""
    if num_candidates == num_choices:
        return list(replies)
    prompts = [replies[at : at + num_candidates] for at in range(0, len(replies), num_candidates)]
    return [reply for candidates in prompts for reply in sorted(candidates, key=mean_logprob, reverse=True)[:num_choices]]


def mean_logprob(reply: Reply) -> float:
    """An answer that ended before its first token comes last."""
    told = [token.logprob for token in reply.logprobs if token.logprob is not None]
    return sum(told) / len(told) if told else float("-inf")


def session_of(reply: Reply) -> tuple[str | UnsetType, int | UnsetType]:
    """The session's id, and how many messages the prompt left out."""
    return reply.session_id or UNSET, reply.truncated_messages or UNSET


def render_chat(body: ChatBody, identity: Identity, choices: Choices) -> ChatAnswer:
    session_id, truncated_messages = session_of(choices.replies[0])

    def choice(index: int, reply: Reply) -> ChatChoice:
        logprobs = chat_logprobs(reply.logprobs) if body.num_logprobs is not None else None
        return ChatChoice(index, AnswerMessage(content=reply.text), logprobs, finish_word(reply.finish_reason))

    return ChatAnswer(
        id=identity.id,
        created=identity.created,
        model=choices.model,
        choices=[choice(*each) for each in enumerate(best(choices.replies, body.num_candidates, body.num_choices))],
        usage=usage_of(choices.replies, body.num_candidates),
        system_fingerprint=identity.system_fingerprint,
        session_id=session_id,
        truncated_messages=truncated_messages,
    )


def render_completion(body: CompletionBody, echoes: Sequence[str], identity: Identity, choices: Choices) -> CompletionAnswer:
    """echoes: each prompt's text where it is to be repeated, else empty."""

    def choice(index: int, reply: Reply) -> CompletionChoice:
        echo = echoes[index // body.num_choices]
        tokens = [*aligned(reply.prompt_logprobs, echo), *reply.logprobs]
        logprobs = completion_logprobs(tokens, 0) if body.logprobs is not None else None
        return CompletionChoice(echo + reply.text + (reply.unfilled_suffix or ""), index, logprobs, finish_word(reply.finish_reason))

    return CompletionAnswer(
        id=identity.id,
        created=identity.created,
        model=choices.model,
        choices=[choice(*each) for each in enumerate(best(choices.replies, body.num_candidates, body.num_choices))],
        usage=usage_of(choices.replies, body.num_candidates),
        system_fingerprint=identity.system_fingerprint,
    )


def render_model(installed: InstalledModel, owner: str) -> ModelAnswer:
    return ModelAnswer(id=installed.name, created=int(installed.modified_at.timestamp()), owned_by=owner)


def render_whole_model(installed: InstalledModel, owner: str) -> WholeModelAnswer:
    created = int(installed.modified_at.timestamp())
    return WholeModelAnswer(id=installed.name, created=created, owned_by=owner, permission=[], root=installed.name, parent=None)


def render_embeddings(embeddings: Embeddings, in_base64: bool) -> EmbeddingsAnswer:
    vectors: list[list[float] | str] = [
        base64.b64encode(vector.astype("<f4").tobytes()).decode() if in_base64 else vector.tolist() for vector in embeddings.vectors
    ]
    return EmbeddingsAnswer(
        data=[Embedding(index=index, embedding=vector) for index, vector in enumerate(vectors)],
        model=embeddings.model,
        usage=EmbeddingsUsage(embeddings.num_tokens, embeddings.num_tokens),
    )
