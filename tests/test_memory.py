"""The decisions about memory, with no model at all."""

from __future__ import annotations

from pathlib import Path

import msgspec

from myllm.config import EngineOptions
from myllm.memory import (
    Footprint,
    Tenant,
    choose_evictions,
    estimate,
    kv_bytes_per_token,
    plan_load,
    recurrent_bytes_per_slot,
    smaller_plans,
)
from myllm.store.metadata import read_metadata
from myllm.types import LoadPlan

TINY = read_metadata(Path(__file__).parents[1] / "models" / "tiny" / "myllm-tiny.Q4_K_M.gguf")


def tenant(name: str, memory_bytes: int = 10, last_used: float = 0.0, *, is_idle: bool = True, is_pinned: bool = False) -> Tenant:
    return Tenant(name, Footprint(memory_bytes, memory_bytes), last_used, is_idle, is_pinned)


def test_nobody_goes_while_there_is_room() -> None:
    assert choose_evictions([tenant("a")], Footprint(5), Footprint(5)) == []


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    tenants = [tenant("new", last_used=3), tenant("old", last_used=1), tenant("middle", last_used=2)]

    assert choose_evictions(tenants, Footprint(20), Footprint(1)) == ["old", "middle"]


def test_a_busy_or_pinned_model_is_never_named() -> None:
    tenants = [tenant("busy", is_idle=False), tenant("pinned", is_pinned=True)]

    assert choose_evictions(tenants, Footprint(5), Footprint(0)) is None
    assert choose_evictions([*tenants, tenant("idle", last_used=9)], Footprint(5), Footprint(0)) == ["idle"]


def test_room_is_made_on_the_gpu_as_well() -> None:
    tenants = [tenant("a", last_used=1), tenant("b", last_used=2)]

    assert choose_evictions(tenants, Footprint(0, 15), Footprint(100, 5)) == ["a"]
    assert choose_evictions(tenants, Footprint(0, 26), Footprint(100, 5)) is None


def test_what_cannot_be_reached_evicts_nobody() -> None:
    assert choose_evictions([tenant("a"), tenant("b")], Footprint(100), Footprint(0)) is None


def test_kv_bytes_are_layers_times_heads_times_lengths_times_size() -> None:
    assert kv_bytes_per_token(TINY, "f16") == 6 * 4 * (32 + 32) * 2
    assert kv_bytes_per_token(TINY, "f32") == 2 * kv_bytes_per_token(TINY, "f16")
    hybrid = msgspec.structs.replace(TINY, head_count_kv=(4, 0, 0, 4, 0, 0))
    assert kv_bytes_per_token(hybrid, "f16") == 2 * 4 * (32 + 32) * 2


def test_an_estimate_grows_with_the_context_and_holds_the_weights() -> None:
    small, large = (bytes_of(context_size=size, gpu_layers=0).ram for size in (4096, 8192))

    assert large - small >= 4096 * kv_bytes_per_token(TINY, "f16")
    assert small > TINY.tensor_bytes


def bytes_of(**options: int | str) -> Footprint:
    given = EngineOptions(**options)  # type: ignore[arg-type]
    return estimate(TINY, given, plan_load(TINY, given, has_gpu=True))


def test_what_goes_to_the_gpu_leaves_main_memory() -> None:
    none, half, whole = (bytes_of(gpu_layers=layers) for layers in (0, 3, 7))

    assert none.gpu == 0 and 0 < half.gpu < whole.gpu and none.ram > half.ram > whole.ram
    assert none.ram == whole.ram + whole.gpu


def test_a_plan_fills_in_what_the_options_leave_open() -> None:
    plan = plan_load(TINY, EngineOptions(), has_gpu=False)

    assert plan == LoadPlan(context_length=2048, num_cells=16_384, num_slots=64, gpu_layers=0)
    named = plan_load(TINY, EngineOptions(context_size=512, parallel=2, gpu_layers=3), has_gpu=True)
    assert named == LoadPlan(context_length=512, num_cells=512, num_slots=2, gpu_layers=3)
    assert plan_load(TINY, EngineOptions(parallel=2), has_gpu=True) == LoadPlan(
        context_length=2048, num_cells=4096, num_slots=2, gpu_layers=7
    )


def test_smaller_plans_give_up_gpu_layers_first_and_the_context_after_them() -> None:
    wish = plan_load(TINY, EngineOptions(), has_gpu=True)

    plans = list(smaller_plans(wish, EngineOptions()))

    assert [plan.gpu_layers for plan in plans[:7]] == [6, 5, 4, 3, 2, 1, 0]
    assert [plan.num_cells for plan in plans[7:]] == [8192, 4096, 2048]


def test_what_was_named_is_never_made_smaller() -> None:
    options = EngineOptions(context_size=8192, gpu_layers=4)

    assert list(smaller_plans(plan_load(TINY, options, has_gpu=True), options)) == []


def test_a_recurrent_model_pays_for_its_slots_and_not_for_its_tokens() -> None:
    values = {"mamba.ssm.inner_size": 512, "mamba.ssm.state_size": 16, "mamba.ssm.conv_kernel": 4}
    mamba = msgspec.structs.replace(TINY, architecture="mamba", head_count_kv=(0,) * 6, values=values)

    assert kv_bytes_per_token(mamba, "f16") == 0
    assert recurrent_bytes_per_slot(mamba) == 6 * 4 * (512 * 16 + 3 * 512)
    assert plan_load(mamba, EngineOptions(), has_gpu=False).num_slots == 8
