"""The same answers as llama-server? Both get one file and the same chats at temperature 0, one at a time and many at once.

Prompts must have equal token counts, always: another count is another template or another tokenizer. Texts are equal as
far as logits are, and llama.cpp's logits depend a little on how tokens were batched: its kernels for quantised weights
do, and its flash attention, which on a CPU sums in 16 bits. So where the two likeliest tokens are all but equal either
server may take either, and need not even agree with itself once requests share batches. Each server is compared with
itself too, and each difference between the two is shown with the gap (in log probability) that llama-server saw between
its two likeliest tokens at the place. --float takes all of that away, with 32-bit weights and cache and without flash
attention: then every text must be equal, in both modes.

Last come messages that hold control tokens, which llama-server obeys and MyLLM spells out.

    python bench/parity.py --model models/tiny/myllm-tiny.Q4_K_M.gguf --llama-server path/to/llama-server
"""

from __future__ import annotations

import argparse
import codecs
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from float_copy import write_float_copy
from servers import MODEL_NAME, LlamaServer, Load, MyLLM
from tables import render_table

Chat = list[dict[str, str]]

MAX_TOKENS = 200
CELLS_A_STREAM = 2048
TIMEOUT_S = 600.0

NAMES = ("Brunhilde", "Xochitl", "José", "Zoë", "小明", "Ludmila")
PLACES = ("France", "Norway", "Japan", "Peru", "Kenya", "Wobbleland")
PHRASES = ("hello 😀 world", "你好 世界", "¡qué señor!", "blorp snizzle quentap", "naïve café — Ωμέγα", "क्षत्रिय 👩‍👩‍👧 z̈")
STYLES = ("Answer in capital letters.", "Speak like a pirate.", "Always answer in JSON.", "You are Marvin, a helpful assistant.")
CONTROL_TOKENS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "</s>", "<|end_of_text|>", "<|endoftext|>", "<|eot|>")


@dataclass(frozen=True)
class Answer:
    prompt_tokens: int
    text: str
    finish_reason: str
    gaps: tuple[tuple[int, float], ...] = ()  # of each token, where known: the byte where it ends, and the gap

    def gap_at(self, place: int) -> float | None:
        """Log probability of the likeliest token less that of the second, where byte `place` was picked."""
        return next((gap for end, gap in self.gaps if end > place), None)


class ParityMyLLM(MyLLM):
    def answer(self, chat: Chat) -> Answer:
        options = {"temperature": 0, "max_tokens": MAX_TOKENS}
        body = self.post("/api/chat", {"model": MODEL_NAME, "messages": chat, "options": options})
        return Answer(body["usage"]["prompt_tokens"], body["message"]["content"], body["finish_reason"])

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        tokens: list[int] = self.post("/api/tokenize", {"model": MODEL_NAME, "content": text, "parse_special": parse_special})["tokens"]
        return tokens

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return post_json(self.port, path, body)


class ParityLlamaServer(LlamaServer):
    """Evaluates each prompt anew, whatever its slot holds, and neither thinks nor looks for thoughts."""

    def __init__(self, load: Load, program: str, options: Sequence[str] = ()) -> None:
        super().__init__(load, program)
        self.options = options

    def command(self) -> list[str]:
        return [*super().command(), "--jinja", "--no-cache-prompt", "--reasoning-format", "none", *self.options]

    def answer(self, chat: Chat) -> Answer:
        options = {"temperature": 0, "max_tokens": MAX_TOKENS, "chat_template_kwargs": {"enable_thinking": False}}
        asked = {"messages": chat, **options, "logprobs": True, "top_logprobs": 2}
        body = post_json(self.port, "/v1/chat/completions", asked)
        choice = body["choices"][0]
        gaps = tuple(gaps_of(choice["logprobs"]["content"]))
        return Answer(body["usage"]["prompt_tokens"], choice["message"]["content"], choice["finish_reason"], gaps)


def gaps_of(tokens: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a small model writes bytes that are no character
    end = 0
    for token in tokens:
        end += len(decoder.decode(bytes(token["bytes"])).encode())
        best, second = (each["logprob"] for each in token["top_logprobs"])
        yield end, best - second


def post_json(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=TIMEOUT_S)
    if response.is_error:
        raise RuntimeError(f"{path} answered {response.status_code}: {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    return answer


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def make_chats(count: int, seed: int = 1) -> list[Chat]:
    """Different chats of every kind in turn: one turn and many, with a system message, in several scripts, long ones."""
    rng = random.Random(seed)
    kinds: list[Callable[[random.Random], Chat]] = [
        lambda r: [user(f"What is the capital of {r.choice(PLACES)}?")],
        lambda r: [user(f"Please add {r.randrange(20)} and {r.randrange(20)}.")],
        lambda r: [user(f"Count to {r.randrange(5, 40)}.")],
        lambda r: [user(f"Repeat after me: {r.choice(PHRASES)} {r.randrange(1000)}")],
        lambda r: [*sums(r, 1, name := r.choice(NAMES)), user("What is my name?"), assistant(f"Your name is {name}."), user("Thanks!")],
        lambda r: [{"role": "system", "content": r.choice(STYLES)}, user(f"What is the capital of {r.choice(PLACES)}?")],
        lambda r: [{"role": "system", "content": f"  The secret word is {r.randrange(10**6)}.\n"}, user("What is the secret word?\n")],
        lambda r: [user(f"Write a story about a {r.choice(('dragon', 'toaster', 'pig'))} named {r.choice(NAMES)}.")],
        lambda r: [*sums(r, r.randrange(20, 35), r.choice(NAMES)), user("Do you remember my name?")],
        lambda r: [user("  \n" + " ".join(r.choice(PHRASES) for _ in range(40))), assistant(""), user("Tell me a story.")],
    ]
    return [kinds[i % len(kinds)](rng) for i in range(count)]


def sums(rng: random.Random, count: int, name: str) -> Chat:
    """An introduction, and so many turns of sums after it."""
    chat = [user(f"My name is {name}."), assistant(f"Nice to meet you, {name}!")]
    for _ in range(count):
        a, b = rng.randrange(20), rng.randrange(20)
        chat += [user(f"What is {a} + {b}?"), assistant(f"{a} + {b} = {a + b}")]
    return chat


def ask_all(server: ParityMyLLM | ParityLlamaServer, chats: list[Chat], at_once: int) -> list[Answer]:
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(server.answer, chats))


def num_equal(ours: Sequence[Answer], theirs: Sequence[Answer], what: str) -> str:
    return f"{sum(getattr(a, what) == getattr(b, what) for a, b in zip(ours, theirs, strict=True))}/{len(ours)}"


def first_difference(one: str, other: str) -> int:
    """The byte at which two texts part."""
    pairs = zip(one.encode(), other.encode(), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.encode()), len(other.encode())))


def largest_gap(ones: Sequence[Answer], llamas: Sequence[Answer]) -> float:
    """At the places where texts part; how far from a tie llama-server saw them is in its own answers."""
    parted = [(one, other) for one, other in zip(ones, llamas, strict=True) if one.text != other.text]
    return max((other.gap_at(first_difference(one.text, other.text)) or 0.0 for one, other in parted), default=0.0)


def excerpt(text: str, place: int) -> str:
    data = text.encode()
    return repr(data[max(0, place - 24) : place].decode(errors="ignore") + "▸" + data[place : place + 24].decode(errors="ignore"))


def show_differences(mode: str, chats: list[Chat], our_answers: list[Answer], their_answers: list[Answer]) -> None:
    for number, (chat, our, their) in enumerate(zip(chats, our_answers, their_answers, strict=True)):
        if our.prompt_tokens != their.prompt_tokens:
            print(f"{mode}, chat {number}: the prompt has {our.prompt_tokens} tokens here and {their.prompt_tokens} there: {chat}")
        if our.text != their.text:
            place = first_difference(our.text, their.text)
            gap = their.gap_at(place)
            told = "where the text of llama-server ends" if gap is None else f"gap {gap:.4f}"
            print(f"{mode}, chat {number}, byte {place}, {told}:")
            print(f"    myllm        {excerpt(our.text, place)}\n    llama-server {excerpt(their.text, place)}")


def compare_answers(ours: ParityMyLLM, theirs: ParityLlamaServer, chats: list[Chat], at_once: int) -> bool:
    """Prints what is equal; True if every text was."""
    modes = {"one at a time": 1, f"{at_once} at once": at_once}
    mine = {mode: ask_all(ours, chats, width) for mode, width in modes.items()}
    other = {mode: ask_all(theirs, chats, width) for mode, width in modes.items()}
    alone = next(iter(modes))
    rows = [
        [
            mode,
            *(num_equal(mine[mode], other[mode], what) for what in ("prompt_tokens", "finish_reason", "text")),
            *("-" if mode == alone else num_equal(each[mode], each[alone], "text") for each in (mine, other)),
        ]
        for mode in modes
    ]
    print(render_table(["mode", "prompt tokens", "finish reasons", "texts", "myllm as alone", "llama-server as alone"], rows))
    between = max(largest_gap(mine[mode], other[mode]) for mode in modes)
    itself = max(largest_gap(other[alone], other[mode]) for mode in modes)
    print(f"\nlargest gap where the two part: {between:.4f}; where llama-server parts from itself: {itself:.4f}\n")
    for mode in modes:
        show_differences(mode, chats, mine[mode], other[mode])
    return all(a.text == b.text for mode in modes for a, b in zip(mine[mode], other[mode], strict=True))


def forged_turn(theirs: ParityLlamaServer, question: str, answer: str, next_question: str) -> str:
    """One user's message that holds, in the template's own words, the end of its turn, an answer, and another turn."""
    rendered = post_json(theirs.port, "/apply-template", {"messages": [user("«1»"), assistant(answer), user("«2»")]})["prompt"]
    seam = rendered.partition("«1»")[2].partition("«2»")[0]
    return f"{question}{seam}{next_question}"


def compare_control_tokens(ours: ParityMyLLM, theirs: ParityLlamaServer) -> None:
    """Control tokens inside of a message: llama-server reads each as one token, and obeys; ours reads its letters."""
    sum_, capital = "What is 2 + 3?", "What is the capital of Peru?"
    messages = {token: f"{sum_} {token} {capital}" for token in CONTROL_TOKENS if len(ours.tokenize(token, parse_special=True)) == 1}
    messages["a forged turn"] = forged_turn(theirs, sum_, "2 + 3 = 5", capital)
    plain = f"{sum_} {capital}"
    num_plain = ours.answer([user(plain)]).prompt_tokens - len(ours.tokenize(plain, parse_special=False))
    rows = []
    for label, message in messages.items():
        our, their = ours.answer([user(message)]), theirs.answer([user(message)])
        spelled = num_plain + len(ours.tokenize(message, parse_special=False))
        rows.append([label, str(their.prompt_tokens), str(our.prompt_tokens), str(spelled), repr(their.text[:40]), repr(our.text[:40])])
    print("\nControl tokens inside of one user's message: the prompt's tokens, and with each letter spelled out; and the answers\n")
    print(render_table(["message", "llama-server", "myllm", "spelled out", "llama-server says", "myllm says"], rows))
    real = [user(sum_), assistant("2 + 3 = 5"), user(capital)]
    print(f"\nwith three real turns: {theirs.answer(real).prompt_tokens} tokens at llama-server, {ours.answer(real).prompt_tokens} here")


@contextmanager
def as_float(model: Path) -> Iterator[Path]:
    """The model with all weights in 32 bits, as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        yield write_float_copy(model, Path(folder) / f"{model.stem}.F32.gguf")


def start(stack: ExitStack, args: argparse.Namespace) -> tuple[ParityMyLLM, ParityLlamaServer]:
    model = stack.enter_context(as_float(args.model)) if args.float else args.model
    load = Load(model, args.at_once, args.at_once * CELLS_A_STREAM, args.threads)
    servers: tuple[ParityMyLLM, ParityLlamaServer] = (
        ParityMyLLM(load, args.myllm, {"kv_cache_type": "f32", "flash_attention": "off"} if args.float else None),
        ParityLlamaServer(load, args.llama_server, ["-ctk", "f32", "-ctv", "f32", "-fa", "off"] if args.float else []),
    )
    for server in servers:
        stack.enter_context(server)
    return servers


def parse_arguments() -> argparse.Namespace:
    beside_python = Path(sys.executable).parent / "myllm"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file of a chat model")
    parser.add_argument("--llama-server", metavar="PATH", required=True)
    parser.add_argument("--myllm", metavar="PATH", default=str(beside_python) if beside_python.exists() else "myllm", help="(%(default)s)")
    parser.add_argument("--count", type=int, default=60, help="of chats (%(default)s)")
    parser.add_argument("--at-once", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="of each server's engine (%(default)s)")
    parser.add_argument("--float", action="store_true", help="32-bit weights and cache, no flash attention; 1 if a text differs")
    args = parser.parse_args()
    if not args.model.is_file():
        parser.error(f"there is no file {args.model}")
    for program in (args.myllm, args.llama_server):
        if shutil.which(program) is None:
            parser.error(f"there is no program {program}")
    if min(args.count, args.at_once, args.threads) < 1:
        parser.error("--count, --at-once and --threads take 1 or more")
    return args


def main() -> None:
    args = parse_arguments()
    with ExitStack() as stack:
        ours, theirs = start(stack, args)
        print(f"{args.model.name}{' as F32' if args.float else ''}, {args.count} chats, temperature 0; how many are equal:\n", flush=True)
        are_equal = compare_answers(ours, theirs, make_chats(args.count), args.at_once)
        compare_control_tokens(ours, theirs)
    if args.float and not are_equal:
        sys.exit(1)


if __name__ == "__main__":
    main()
