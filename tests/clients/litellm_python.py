"""litellm, over its OpenAI-compatible provider and its Anthropic one."""

from __future__ import annotations

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch its price list otherwise

import litellm
from checks import BASE_URL, HELLO, check, check_raises

ASK = [{"role": "user", "content": "Hello!"}]
OURS = {"model": "openai/tiny", "api_base": f"{BASE_URL}/v1", "api_key": "none", "num_retries": 0}
litellm.suppress_debug_info = True

answer = litellm.completion(messages=ASK, temperature=0, **OURS)
check("completion", answer.choices[0].message.content == HELLO, answer)
pieces = litellm.completion(messages=ASK, temperature=0, stream=True, **OURS)
text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
check("completion stream", text == HELLO, text)
answer = asyncio.run(litellm.acompletion(messages=ASK, temperature=0, **OURS))
check("acompletion", answer.choices[0].message.content == HELLO, answer)
vectors = litellm.embedding(input=["one", "two"], encoding_format="float", **OURS)
check("embedding", len(vectors.data) == 2 and len(vectors.data[0]["embedding"]) == 256)
text = litellm.text_completion(prompt="Once upon", max_tokens=8, **(OURS | {"model": "text-completion-openai/tiny"}))
check("text_completion", text.choices[0].text, text)
check_raises(
    "an unknown model is NotFoundError",
    litellm.NotFoundError,
    lambda: litellm.completion(messages=ASK, **(OURS | {"model": "openai/none"})),
)
answer = litellm.completion(model="anthropic/tiny", messages=ASK, temperature=0, max_tokens=64, api_base=BASE_URL, api_key="none")
check("completion over /v1/messages", answer.choices[0].message.content == HELLO, answer)
