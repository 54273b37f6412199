"""llama-index-llms-ollama and llama-index-embeddings-ollama."""

from __future__ import annotations

import asyncio

from checks import HELLO, OLLAMA_URL, check
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama

URL = OLLAMA_URL

model = Ollama(model="tiny", base_url=URL, temperature=0, context_window=2048, request_timeout=60, keep_alive="5m")
ask = [ChatMessage(role="user", content="Hello!")]
answer = model.chat(ask)
check("chat", answer.message.content == HELLO, answer)
check("chat usage", answer.raw["usage"]["prompt_tokens"] == 12, answer.raw)
check("stream_chat", list(model.stream_chat(ask))[-1].message.content == HELLO)
check("complete", model.complete("Hello!").text == HELLO)
check("stream_complete", list(model.stream_complete("Hello!"))[-1].text == HELLO)
check("achat", asyncio.run(model.achat(ask)).message.content == HELLO)
check("the context as the server tells it", Ollama(model="tiny", base_url=URL).metadata.context_window)

embeddings = OllamaEmbedding(model_name="tiny", base_url=URL)
check("get_text_embedding", len(embeddings.get_text_embedding("one")) == 256)
check("get_text_embedding_batch", [len(each) for each in embeddings.get_text_embedding_batch(["one", "two"])] == [256, 256])
