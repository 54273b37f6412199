#!/usr/bin/env bash
# Plain curl, as the documents print it: every endpoint of /v1, streamed and not.
set -euo pipefail
url="${1:-http://127.0.0.1:8000}"

check() { # what, the text that must be there, the answer
  case "$3" in
    *"$2"*) echo "ok  $1" ;;
    *) echo "WRONG  $1: $3" >&2; exit 1 ;;
  esac
}

ask='"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0'
check "health" '"healthy"' "$(curl -fsS "$url/health")"
check "models" '"object":"list"' "$(curl -fsS "$url/v1/models")"
check "model" '"id":"tiny"' "$(curl -fsS "$url/v1/models/tiny")"
check "chat" 'I am tiny' "$(curl -fsS "$url/v1/chat/completions" -H "Content-Type: application/json" -d "{$ask}")"
check "chat without a Content-Type of JSON" 'I am tiny' "$(curl -fsS "$url/v1/chat/completions" -d "{$ask}")"
check "chat stream" 'data: [DONE]' "$(curl -fsSN "$url/v1/chat/completions" -d "{$ask, \"stream\": true}")"
check "completion" '"text_completion"' "$(curl -fsS "$url/v1/completions" -d '{"model": "tiny", "prompt": "Once upon"}')"
check "embeddings" '"embedding":[' "$(curl -fsS "$url/v1/embeddings" -d '{"model": "tiny", "input": "one"}')"
check "responses" '"completed"' "$(curl -fsS "$url/v1/responses" -d '{"model": "tiny", "input": "Hello!", "temperature": 0}')"
check "messages" '"end_turn"' "$(curl -fsS "$url/v1/messages" -d "{$ask, \"max_tokens\": 64}")"
check "a service's prefix" 'I am tiny' "$(curl -fsS "$url/api/v1/chat/completions" -d '{"payload": {"model": "tiny", "messages": "Hello!", "temperature": 0}}')"
check "the gateway" '"response"' "$(curl -fsS "$url/chat" -d '{"message": "Hello!"}')"
check "an unknown model" 'model_not_found' "$(curl -sS "$url/v1/chat/completions" -d '{"model": "none", "messages": [{"role": "user", "content": "Hi"}]}')"
check "an empty body" 'invalid_request_error' "$(curl -sS -X POST "$url/v1/chat/completions")"
