"""langchain-openai: chat, streaming, batches, embeddings, text completion."""

from __future__ import annotations

import asyncio

from checks import BASE_URL, HELLO, check
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

URL = f"{BASE_URL}/v1"

chat = ChatOpenAI(model="tiny", base_url=URL, api_key="none", temperature=0)
answer = chat.invoke("Hello!")
check("ChatOpenAI.invoke", answer.content == HELLO, answer)
check("usage_metadata", answer.usage_metadata and answer.usage_metadata["output_tokens"] > 0, answer)
text = "".join(chunk.content for chunk in chat.stream("Hello!"))
check("ChatOpenAI.stream", text == HELLO, text)
answers = chat.batch(["Hello!"] * 4)
check("ChatOpenAI.batch", [each.content for each in answers] == [HELLO] * 4, answers)
check("ChatOpenAI.ainvoke", asyncio.run(chat.ainvoke("Hello!")).content == HELLO)
probable = chat.bind(logprobs=True, top_logprobs=2, max_tokens=4).invoke("Hello!")
check("logprobs", len(probable.response_metadata["logprobs"]["content"]) == 4, probable)

over_responses = ChatOpenAI(model="tiny", base_url=URL, api_key="none", temperature=0, use_responses_api=True)
check("ChatOpenAI over /v1/responses", over_responses.invoke("Hello!").text == HELLO)

embeddings = OpenAIEmbeddings(model="tiny", base_url=URL, api_key="none", check_embedding_ctx_length=False)
check("OpenAIEmbeddings", [len(vector) for vector in embeddings.embed_documents(["one", "two"])] == [256, 256])
text = OpenAI(model="tiny", base_url=URL, api_key="none", temperature=0, max_tokens=8).invoke("Once upon")
check("OpenAI (completions)", text, text)
