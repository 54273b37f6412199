"""The decisions about memory, with no model at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
from myllm.config import EngineOptions
from myllm.memory import Tenant, choose_evictions, estimate, kv_bytes_per_token
from myllm.store.metadata import read_metadata

TINY = read_metadata(Path(__file__).parents[1] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf")


def tenant(name: str, memory_bytes: int = 10, last_used: float = 0.0, *, is_idle: bool = True, is_pinned: bool = False) -> Tenant:
    return Tenant(name, memory_bytes, last_used, is_idle, is_pinned)


def test_nobody_goes_while_there_is_room() -> None:
    assert choose_evictions([tenant("a")], needed_bytes=5, free_bytes=5) == []


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    tenants = [tenant("new", last_used=3), tenant("old", last_used=1), tenant("middle", last_used=2)]

    assert choose_evictions(tenants, needed_bytes=20, free_bytes=1) == ["old", "middle"]


def test_a_busy_or_pinned_model_is_never_named() -> None:
    tenants = [tenant("busy", is_idle=False), tenant("pinned", is_pinned=True)]

    assert choose_evictions(tenants, needed_bytes=5, free_bytes=0) is None
    assert choose_evictions([*tenants, tenant("idle", last_used=9)], needed_bytes=5, free_bytes=0) == ["idle"]


def test_what_cannot_be_reached_evicts_nobody() -> None:
    assert choose_evictions([tenant("a"), tenant("b")], needed_bytes=100, free_bytes=0) is None


def test_kv_bytes_are_layers_times_heads_times_lengths_times_size() -> None:
    assert kv_bytes_per_token(TINY, "f16") == 6 * 4 * (32 + 32) * 2
    assert kv_bytes_per_token(TINY, "f32") == 2 * kv_bytes_per_token(TINY, "f16")
    hybrid = msgspec.structs.replace(TINY, head_count_kv=(4, 0, 0, 4, 0, 0))
    assert kv_bytes_per_token(hybrid, "f16") == 2 * 4 * (32 + 32) * 2


def test_an_estimate_grows_with_the_context_and_holds_the_weights() -> None:
    small, large = (estimate(TINY, EngineOptions(context_size=size)) for size in (1024, 2048))

    assert large - small == 1024 * kv_bytes_per_token(TINY, "f16")
    assert small > TINY.size_bytes
