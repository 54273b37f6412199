"""What a model can do, judged from its header: pure decisions, because no file says it outright."""

from __future__ import annotations

import re
from enum import IntEnum


class PoolingType(IntEnum):
    """`<architecture>.pooling_type`, as llama.cpp numbers it."""

    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4


# Encoders: they have no next token, so embeddings and scores are all that they give.
ENCODERS = frozenset(
    {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert", "t5encoder"}
    | {"gemma-embedding"}
)
# Made to be given images, which takes a projector beside the file: by architecture, and by the tags that makers put in the file.
SEEING = frozenset({"qwen2vl", "qwen3vl", "qwen3vlmoe", "cogvlm", "mllama", "paddleocr", "hunyuan-vl", "deepseek2-ocr"})
IMAGE_TAGS = frozenset({"image-text-to-text", "image-to-text", "visual-question-answering", "any-to-any", "vision"})
_INSTRUCT = re.compile(r"\b(instruct|chat|it|assistant)\b", re.IGNORECASE)
_TOOLS = re.compile(r"\btools\b|tool_call")
_THINKING = re.compile(r"</?think>|enable_thinking|reasoning_effort|\bthinking\b")


def judge_capabilities(
    *, architecture: str, pooling_type: int | None, template: str | None, title: str, has_fim_tokens: bool, sees_images: bool = False
) -> tuple[str, ...]:
    """Of `completion chat tools thinking insert vision embeddings rerank`, in this order, what the model can do.

    A pooling type says that somebody made the model for embeddings, and with RANK for scores. `title` holds the names
    that the model goes by: one that was tuned for chat may come without a template.
    """
    found = ["rerank" if pooling_type == PoolingType.RANK else "embeddings"]  # a head that gives one number gives no vector
    if architecture in ENCODERS or pooling_type not in (None, PoolingType.NONE):
        return tuple(found)
    insert = ["insert"] if has_fim_tokens else []
    vision = ["vision"] if sees_images else []
    return ("completion", *_judge_chat(template, title), *insert, *vision, *found)


def with_template(capabilities: tuple[str, ...], template: str) -> tuple[str, ...]:
    """What the same model can do with another template than its file's."""
    if "completion" not in capabilities:
        return capabilities
    others = [name for name in capabilities if name not in ("completion", "chat", "tools", "thinking")]
    return ("completion", *_judge_chat(template, ""), *others)


def _judge_chat(template: str | None, title: str) -> list[str]:
    if not template:
        return ["chat"] if _INSTRUCT.search(title.replace("_", "-")) else []
    tools = ["tools"] if _TOOLS.search(template) else []
    thinking = ["thinking"] if _THINKING.search(template) else []
    return ["chat", *tools, *thinking]
