"""Models made for real: uploads, quantisation by a child, and a worker that loads what came out and says something."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import namedtuple
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
from float_models import write_float_model, write_split_model

from myllm.config import Settings
from myllm.errors import Conflict, InsufficientStorage, InvalidRequest, ModelNotFound, TemplateFailed
from myllm.manager import ModelManager
from myllm.model_builder import BuildProgress, ModelBuilder, check_template
from myllm.store.catalog import Catalog, bundled_model
from myllm.store.create import NewModel
from myllm.store.store import Store
from myllm.types import Message, SamplingParams, Span

Usage = namedtuple("Usage", "free")
JINJA = "{% for message in messages %}{{ message.content }}{% endfor %}"


class Bench:
    """A store, a manager and a builder over one home."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home, bundled=bundled_model(), catalog=Catalog())
        self.manager = ModelManager(self.store, Settings())
        self.builder = ModelBuilder(self.store, self.manager.forget)

    async def make(self, **wanted: Any) -> list[BuildProgress]:
        async with aclosing(self.builder.create(NewModel(**{"name": "new", **wanted}))) as steps:
            return [step async for step in steps]

    async def put(self, file: Path) -> str:
        content = file.read_bytes()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        await self.builder.upload(digest, pieces(content), len(content))
        return digest

    async def says(self, name: str) -> str:
        """What the model, loaded by a worker, makes of a beginning."""
        async with self.manager.lease(name) as lease:
            generation = await lease.worker.generate((Span("Once"),), SamplingParams(temperature=0, max_tokens=4))
            return "".join([delta.text async for deltas in generation for delta in deltas])

    def left(self) -> list[str]:
        return sorted(os.listdir(self.store.blobs.folder)) if self.store.blobs.folder.exists() else []


async def pieces(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for at in range(0, len(content), size):
        yield content[at : at + size]


@pytest.fixture
def with_bench(tmp_path: Path) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    def run(test: Callable[[Bench], Awaitable[None]]) -> None:
        async def run_it() -> None:
            bench = Bench(tmp_path / "home")
            try:
                await test(bench)
            finally:
                await bench.manager.close()
            assert [child for child in psutil.Process().children() if "quantizer_main" in " ".join(child.cmdline())] == []

        asyncio.run(run_it())

    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_float_model(tmp_path_factory.mktemp("float") / "f16.gguf")


def statuses(steps: list[BuildProgress]) -> list[str]:
    return list(dict.fromkeys(step.status for step in steps))


def test_an_upload_is_quantised_loaded_and_says_something(with_bench: Any, source: Path) -> None:
    async def test(bench: Bench) -> None:
        digest = await bench.put(source)

        steps = await bench.make(files={"x.gguf": digest}, quantize="q4_K_M", system="You are small.")

        model = bench.store.resolve("new")
        quantizing = [step for step in steps if step.status == "quantizing F16 model to Q4_K_M"]
        assert statuses(steps) == [
            "parsing GGUF",
            "quantizing F16 model to Q4_K_M",
            "verifying conversion",
            f"creating new layer {model.path.name.replace('-', ':')}",
            f"creating new layer sha256:{hashlib.sha256(b'You are small.').hexdigest()}",
            "writing manifest",
            "success",
        ]
        assert [step.completed for step in quantizing] == sorted(step.completed or 0 for step in quantizing)
        assert (quantizing[0].completed, quantizing[-1].completed) == (0, quantizing[-1].total)
        assert hashlib.sha256(model.path.read_bytes()).hexdigest() == model.path.name.removeprefix("sha256-")
        assert (model.metadata.quantization, model.system) == ("Q4_K_M", "You are small.")
        assert await bench.says("new")

    with_bench(test)


def test_a_split_upload_is_loaded_as_it_is_and_can_be_quantised(with_bench: Any, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        files = {part.name: await bench.put(part) for part in write_split_model(tmp_path)}

        steps = await bench.make(name="whole", files=files)
        await bench.make(name="small", source="whole", quantize="Q8_0")

        assert statuses(steps)[:2] == ["parsing GGUF", f"using existing layer {files[min(files)]}"]
        assert await bench.says("whole") and await bench.says("small")
        assert bench.store.resolve("small").parent_model == "whole"
        bench.store.remove("whole")
        bench.store.remove("small")
        assert bench.left() == []

    with_bench(test)


def test_a_model_made_from_another_needs_no_weights_of_its_own_and_loads_as_it_was_made(with_bench: Any) -> None:
    async def test(bench: Bench) -> None:
        turns = (Message("user", "Hi"), Message("assistant", "Hello."))

        steps = await bench.make(source="tiny", system="Be brief.", messages=turns, template=JINJA, parameters={"num_ctx": 512})

        digest = bench.store.resolve("tiny").digest.replace("-", ":")
        assert statuses(steps)[0] == f"using existing layer {digest}"
        assert [step.status.partition(" sha256")[0] for step in steps[1:]] == ["creating new layer"] * 4 + ["writing manifest", "success"]
        assert bench.left() == []
        async with bench.manager.lease("new") as lease:
            assert lease.worker.info.context_length == 512

    with_bench(test)


def test_a_model_that_is_made_anew_is_loaded_anew(with_bench: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.make(source="tiny", system="First.")
        async with bench.manager.lease("new") as lease:
            assert lease.installed.system == "First."

        await bench.make(source="tiny", system="Second.")

        async with bench.manager.lease("new") as lease:
            assert lease.installed.system == "Second."

    with_bench(test)


def test_who_leaves_in_the_middle_of_a_quantisation_leaves_everything_as_it_was(with_bench: Any, source: Path) -> None:
    async def test(bench: Bench) -> None:
        digest = await bench.put(source)
        await bench.make(source="tiny", system="The old one.")
        before = bench.left()

        async with aclosing(bench.builder.create(NewModel(name="new", files={"x.gguf": digest}, quantize="q8_0"))) as steps:
            async for step in steps:
                if step.completed:
                    break

        assert bench.store.resolve("new").system == "The old one."
        assert bench.left() == before

    with_bench(test)


def test_a_model_whose_maker_leaves_at_the_last_step_is_unloaded_all_the_same(with_bench: Any) -> None:
    async def test(bench: Bench) -> None:
        forgotten, may_go_on = asyncio.Event(), asyncio.Event()

        async def forget(name: str) -> None:
            await may_go_on.wait()
            forgotten.set()

        bench.builder.forget = forget
        making = asyncio.create_task(bench.make(source="tiny", system="Hi"))
        async with asyncio.timeout(30):
            while "new" not in [model.name for model in bench.store.list()]:
                await asyncio.sleep(0.01)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        may_go_on.set()

        await asyncio.wait_for(forgotten.wait(), 30)

    with_bench(test)


def test_quantising_needs_room_on_the_disk_and_says_how_much(with_bench: Any, source: Path) -> None:
    async def test(bench: Bench) -> None:
        digest = await bench.put(source)
        before = bench.left()
        bench.store.blobs.disk_usage = lambda folder: Usage(1_000)

        with pytest.raises(InsufficientStorage, match=r"quantizing to Q8_0 needs [\d,]+ bytes .* 1,000 are free"):
            await bench.make(files={"x.gguf": digest}, quantize="q8_0")

        assert bench.left() == before

    with_bench(test)


def test_two_quantisations_side_by_side_both_come_out(with_bench: Any, source: Path) -> None:
    async def test(bench: Bench) -> None:
        digest = await bench.put(source)

        await asyncio.gather(*(bench.make(name=kind, files={"x.gguf": digest}, quantize=kind) for kind in ("q8_0", "q4_0")))

        made = {model.name: model.metadata.quantization for model in bench.store.list() if model.name != "tiny"}
        assert made == {"q8_0": "Q8_0", "q4_0": "Q4_0"}

    with_bench(test)


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"name": "tiny", "source": "tiny"}, Conflict),
        ({"source": "nothing"}, ModelNotFound),
        ({}, InvalidRequest),
        ({"source": "tiny", "template": "{% for"}, TemplateFailed),
        ({"source": "tiny", "template": "{{ .Prompt }}"}, InvalidRequest),
    ],
)
def test_what_is_wrong_is_raised_before_the_first_step(with_bench: Any, wanted: dict[str, Any], error: type[Exception]) -> None:
    async def test(bench: Bench) -> None:
        steps = bench.builder.create(NewModel(**{"name": "new", **wanted}))

        with pytest.raises(error):
            await anext(steps)

        assert [model.name for model in bench.store.list()] == ["tiny"]

    with_bench(test)


def test_a_copy_takes_over_a_name_that_is_taken(with_bench: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.make(name="mario", source="tiny", system="You are Mario.")
        await bench.make(name="other", source="tiny")

        await bench.builder.copy("mario", "other")

        assert bench.store.resolve("other").system == "You are Mario."

    with_bench(test)


def test_an_upload_that_breaks_off_leaves_nothing(with_bench: Any) -> None:
    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        raise ConnectionError

    async def test(bench: Bench) -> None:
        with pytest.raises(ConnectionError):
            await bench.builder.upload(f"sha256:{'0' * 64}", breaks_off())

        assert bench.left() == []

    with_bench(test)


def test_an_upload_with_another_digest_is_refused(with_bench: Any) -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(InvalidRequest, match="digest mismatch"):
            await bench.builder.upload(f"sha256:{'0' * 64}", pieces(b"something else"))

        assert bench.left() == []

    with_bench(test)


@pytest.mark.parametrize(
    ("source", "reason"), [("{% if %}{{ messages }}", "line 1"), ("Hello", "never uses 'messages'"), ("x" * 200_000, "characters")]
)
def test_a_template_that_makes_no_prompt_of_messages_is_refused(source: str, reason: str) -> None:
    with pytest.raises(TemplateFailed, match=reason) as refused:
        check_template(source)

    assert refused.value.param == "template"
