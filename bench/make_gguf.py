"""Write a GGUF file with random weights, so that a benchmark needs no download and always measures the same model.

The words it generates mean nothing; what it costs does. By default it is a llama of 67 million parameters of which
nearly all are Llama 3's vocabulary of 128,256 tokens: each layer is cheap, and what surrounds the layers (sampling
over the whole vocabulary, detokenising, batching, HTTP) shows. `--arch mamba` writes a recurrent model, whose state
cannot be cut in the middle. The tokenizer is a working byte-level BPE with the control tokens and the chat template
of Llama 3, and the same arguments write the same bytes.

    python bench/make_gguf.py --out bench.gguf
    python bench/make_gguf.py --out mamba.gguf --arch mamba --vocab 4096 --layers 2
    python bench/make_gguf.py --out bert.gguf --arch bert --vocab 4096 --layers 2 --context 512
    python bench/make_gguf.py --out reranker.gguf --arch bert --rank --vocab 4096 --layers 2 --context 512
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, PoolingType, TokenType
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tensor = tuple[str, Floats, bool]  # name, values, and whether it is a matrix that may be quantised

NUM_CONTROL_TOKENS = 256
CONTROL_NAMES = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LONGEST_PART = 6  # characters of a token that is merged further, so that none is longer than 12: about as in a real vocabulary
HEAD_DIM = 64
LOGIT_SPREAD = 4.0  # standard deviation of the logits: neither one certain token nor all alike
TYPES = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def byte_letters() -> list[str]:
    """The 256 letters that stand for bytes in a byte-level BPE, in the order of the bytes: GPT-2's table."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def random_merges(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Pairs of tokens that exist, each making a new one: all pairs of letters first, then lower-case words.

    Some begin with the space before them. Only ASCII is merged, so whatever the model picks is nearly always whole
    characters, and English takes some two letters a token.
    """
    space = byte_letters()[ord(" ")]
    tails = list("abcdefghijklmnopqrstuvwxyz")
    heads = [space, *tails]
    merges = [(head, tail) for head in heads for tail in tails][:count]
    known = {left + right for left, right in merges}
    heads += sorted(known)
    tails += sorted(word for word in known if not word.startswith(space))
    while len(merges) < count:
        left, right = rng.choice(heads), rng.choice(tails)
        merged = left + right
        if merged in known:
            continue
        known.add(merged)
        merges.append((left, right))
        if len(merged) <= LONGEST_PART:
            heads.append(merged)
        if len(merged) <= LONGEST_PART and not merged.startswith(space):
            tails.append(merged)
    return merges


def write_vocabulary(writer: GGUFWriter, size: int, seed: int) -> None:
    """Bytes first, then the merges, then the control tokens, as in Llama 3."""
    first_control = size - NUM_CONTROL_TOKENS
    merges = random_merges(random.Random(seed), first_control - 256)
    words = byte_letters() + [left + right for left, right in merges]
    control = [CONTROL_NAMES.get(index, f"<|reserved_special_token_{index}|>") for index in range(NUM_CONTROL_TOKENS)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(words + control)
    writer.add_token_types([TokenType.NORMAL] * len(words) + [TokenType.CONTROL] * len(control))
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(first_control)
    writer.add_eos_token_id(first_control + 9)
    writer.add_eot_token_id(first_control + 9)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


class Weights:
    """Random matrices that keep a signal's size on its way through them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def matrix(self, rows: int, columns: int, spread: float = 1.0) -> Floats:
        return self.rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(spread / math.sqrt(columns))

    def norm(self, name: str, width: int) -> Iterator[Tensor]:
        yield f"{name}.weight", np.ones(width, np.float32), False
        yield f"{name}.bias", np.zeros(width, np.float32), False

    def dense(self, name: str, rows: int, columns: int) -> Iterator[Tensor]:
        yield f"{name}.weight", self.matrix(rows, columns), True
        yield f"{name}.bias", np.zeros(rows, np.float32), False

    def embeddings(self, vocab: int, width: int) -> Iterator[Tensor]:
        """The input and output tables. Control tokens score 0, far below the best of the others: none is picked."""
        yield "token_embd.weight", self.matrix(vocab, width), True
        output = self.matrix(vocab, width, LOGIT_SPREAD)
        output[-NUM_CONTROL_TOKENS:] = 0
        yield "output_norm.weight", np.ones(width, np.float32), False
        yield "output.weight", output, True


def llama_tensors(weights: Weights, args: argparse.Namespace) -> Iterator[Tensor]:
    """A llama: grouped-query attention and a feed-forward of twice the width."""
    width, kv_width = args.width, HEAD_DIM * kv_heads(args)
    for layer in range(args.layers):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", np.ones(width, np.float32), False
        yield name + "attn_q.weight", weights.matrix(width, width), True
        yield name + "attn_k.weight", weights.matrix(kv_width, width), True
        yield name + "attn_v.weight", weights.matrix(kv_width, width), True
        yield name + "attn_output.weight", weights.matrix(width, width), True
        yield name + "ffn_norm.weight", np.ones(width, np.float32), False
        yield name + "ffn_gate.weight", weights.matrix(2 * width, width), True
        yield name + "ffn_up.weight", weights.matrix(2 * width, width), True
        yield name + "ffn_down.weight", weights.matrix(width, 2 * width), True


def kv_heads(args: argparse.Namespace) -> int:
    width: int = args.width
    share: int = getattr(args, "share", 2)
    return max(1, width // HEAD_DIM // share)


def write_llama_shape(writer: GGUFWriter, args: argparse.Namespace) -> None:
    heads = args.width // HEAD_DIM
    writer.add_feed_forward_length(2 * args.width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads(args))
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)


def mamba_tensors(weights: Weights, args: argparse.Namespace) -> Iterator[Tensor]:
    """A mamba: each layer carries a state of `inner` × 16 numbers from token to token, and has no attention."""
    width, inner, state, rank = args.width, 2 * args.width, 16, args.width // 16
    for layer in range(args.layers):
        name = f"blk.{layer}."
        decay = np.tile(-np.arange(1, state + 1, dtype=np.float32), (inner, 1))
        yield name + "attn_norm.weight", np.ones(width, np.float32), False
        yield name + "ssm_in.weight", weights.matrix(2 * inner, width), True
        yield name + "ssm_conv1d.weight", weights.matrix(inner, 4), False
        yield name + "ssm_conv1d.bias", np.zeros(inner, np.float32), False
        yield name + "ssm_x.weight", weights.matrix(rank + 2 * state, inner), True
        yield name + "ssm_dt.weight", weights.matrix(inner, rank), False
        yield name + "ssm_dt.bias", np.full(inner, -3.0, np.float32), False  # steps of softplus(-3) = 0.05: a long memory
        yield name + "ssm_a", decay, False
        yield name + "ssm_d", np.ones(inner, np.float32), False
        yield name + "ssm_out.weight", weights.matrix(width, inner), True


def write_mamba_shape(writer: GGUFWriter, args: argparse.Namespace) -> None:
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(2 * args.width)
    writer.add_ssm_state_size(16)
    writer.add_ssm_time_step_rank(args.width // 16)


def bert_tensors(weights: Weights, args: argparse.Namespace) -> Iterator[Tensor]:
    """A bert: an encoder that sees the whole text at once, has no KV cache and generates nothing."""
    width = args.width
    yield "token_embd.weight", weights.matrix(args.vocab, width), True
    yield "token_types.weight", weights.matrix(2, width), False
    yield "position_embd.weight", weights.matrix(args.context, width), False
    yield from weights.norm("token_embd_norm", width)
    for layer in range(args.layers):
        name = f"blk.{layer}."
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield from weights.dense(name + part, width, width)
        yield from weights.norm(name + "attn_output_norm", width)
        yield from weights.dense(name + "ffn_up", 2 * width, width)
        yield from weights.dense(name + "ffn_down", width, 2 * width)
        yield from weights.norm(name + "layer_output_norm", width)
    if ranks(args):
        yield from weights.dense("cls", width, width)
        yield from weights.dense("cls.output", 1, width)


def ranks(args: argparse.Namespace) -> bool:
    rank: bool = getattr(args, "rank", False)
    return rank


def write_bert_shape(writer: GGUFWriter, args: argparse.Namespace) -> None:
    writer.add_feed_forward_length(2 * args.width)
    writer.add_head_count(args.width // HEAD_DIM)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.RANK if ranks(args) else PoolingType.MEAN)
    writer.add_token_type_count(2)


SHAPES = {
    "llama": (write_llama_shape, llama_tensors),
    "mamba": (write_mamba_shape, mamba_tensors),
    "bert": (write_bert_shape, bert_tensors),
}


def write_model(args: argparse.Namespace) -> int:
    """Write the file at `args.out`; returns the number of parameters."""
    writer = GGUFWriter(args.out, args.arch)
    writer.add_name(f"bench-{args.arch}")
    writer.add_file_type(FILE_TYPES[args.type])
    writer.add_context_length(args.context)
    writer.add_embedding_length(args.width)
    writer.add_block_count(args.layers)
    writer.add_vocab_size(args.vocab)
    writer.add_layer_norm_rms_eps(1e-5)
    write_vocabulary(writer, args.vocab, args.seed)
    write_shape, layer_tensors = SHAPES[args.arch]
    write_shape(writer, args)
    weights = Weights(args.seed)
    num_parameters = 0
    tables = () if args.arch == "bert" else weights.embeddings(args.vocab, args.width)
    for tensors in (tables, layer_tensors(weights, args)):
        for name, values, is_matrix in tensors:
            add_tensor(writer, name, values, TYPES[args.type] if is_matrix else GGMLQuantizationType.F32)
            num_parameters += values.size
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return num_parameters


def add_tensor(writer: GGUFWriter, name: str, values: Floats, kind: GGMLQuantizationType) -> None:
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--arch", choices=tuple(SHAPES), default="llama")
    parser.add_argument("--vocab", type=int, default=128_256, help="tokens, 256 bytes and 256 control tokens among them (%(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=256, help="embedding length, a multiple of 64 (%(default)s)")
    parser.add_argument("--share", type=int, default=2, help="llama: heads that share one key/value head (%(default)s)")
    parser.add_argument("--rank", action="store_true", help="bert: with a head that scores a document for a query")
    parser.add_argument("--context", type=int, default=131_072, help="context length that the file claims (%(default)s)")
    parser.add_argument("--type", choices=tuple(TYPES), default="q8_0", help="of the matrices (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.vocab < 1024:
        parser.error(f"--vocab {args.vocab} is too small: bytes and control tokens alone are 512; take 1,024 or more")
    if args.width < HEAD_DIM or args.width % HEAD_DIM:
        parser.error(f"--width {args.width} is not a multiple of {HEAD_DIM}, the width of an attention head")
    return args


def main() -> None:
    args = parse_arguments()
    num_parameters = write_model(args)
    size_mb = args.out.stat().st_size / 1e6
    print(f"{args.out}: {args.arch}, {num_parameters / 1e6:.1f} M parameters, {args.vocab:,} tokens, {args.type}, {size_mb:.1f} MB")


if __name__ == "__main__":
    main()
