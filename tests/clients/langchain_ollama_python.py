"""langchain-ollama: chat, streaming, batches, text completion, embeddings."""

from __future__ import annotations

import asyncio

from checks import HELLO, OLLAMA_URL, check
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

URL = OLLAMA_URL

chat = ChatOllama(model="tiny", base_url=URL, temperature=0, validate_model_on_init=True, num_ctx=2048, keep_alive="5m")
answer = chat.invoke("Hello!")
check("ChatOllama.invoke", answer.content == HELLO, answer)
check("usage_metadata", answer.usage_metadata and answer.usage_metadata["input_tokens"] == 12, answer)
check("response_metadata", answer.response_metadata["done_reason"] == "stop" and answer.response_metadata["model"] == "tiny", answer)
check("ChatOllama.stream", "".join(chunk.content for chunk in chat.stream("Hello!")) == HELLO)
check("ChatOllama.batch", [each.content for each in chat.batch(["Hello!"] * 4)] == [HELLO] * 4)
check("ChatOllama.ainvoke", asyncio.run(chat.ainvoke("Hello!")).content == HELLO)
history = [("human", "My name is Ludmila."), ("ai", "Nice to meet you, Ludmila!"), ("human", "What is my name?")]
check("a history", "Ludmila" in chat.invoke(history).content)
probable = ChatOllama(model="tiny", base_url=URL, temperature=0, logprobs=True, top_logprobs=2).invoke("Hello!")
check("logprobs", probable.response_metadata.get("logprobs"), probable.response_metadata)

text = OllamaLLM(model="tiny", base_url=URL, temperature=0, num_predict=16)
check("OllamaLLM.invoke", HELLO.startswith(text.invoke("Hello!")))
check("OllamaLLM.stream", HELLO.startswith("".join(text.stream("Hello!"))))

embeddings = OllamaEmbeddings(model="tiny", base_url=URL, dimensions=64)
check("OllamaEmbeddings.embed_documents", [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [64, 64])
check("OllamaEmbeddings.embed_query", len(embeddings.embed_query("one")) == 64)
