"""llama-index's OpenAI-like LLM."""

from __future__ import annotations

import asyncio

from checks import BASE_URL, HELLO, check
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

chat = OpenAILike(model="tiny", api_base=f"{BASE_URL}/v1", api_key="none", is_chat_model=True, temperature=0, max_tokens=64)
ask = [ChatMessage(role="user", content="Hello!")]
check("chat", chat.chat(ask).message.content == HELLO)
check("stream_chat", list(chat.stream_chat(ask))[-1].message.content == HELLO)
check("complete as a chat", chat.complete("Hello!").text == HELLO)
check("achat", asyncio.run(chat.achat(ask)).message.content == HELLO)

text = OpenAILike(model="tiny", api_base=f"{BASE_URL}/v1", api_key="none", is_chat_model=False, temperature=0, max_tokens=5)
whole = text.complete("Once upon").text
check("complete", whole, whole)
check("stream_complete", "".join(piece.delta or "" for piece in text.stream_complete("Once upon")) == whole)
