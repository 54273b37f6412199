"""The packaged templates: each writes its family's format, and the sandbox changes nothing about what Jinja makes of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from myllm.chat.library import TemplateLibrary
from myllm.chat.sandbox import GenerationTag, TemplateSandbox
from myllm.chat.template import ChatTemplate
from myllm.chat.turns import as_dict
from myllm.types import Message, ToolCall

LIBRARY = TemplateLibrary()
CHAT = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]
CALL = ToolCall("call12345", "add", '{"a": 1}')
TOOL_CHAT = [
    Message("user", "1+1?"),
    Message("assistant", "", reasoning="hm", tool_calls=(CALL, ToolCall("call67890", "sub", '{"b": "ü"}'))),
    Message("tool", "2", name="add", tool_call_id="call12345"),
    Message("tool", "0", name="sub", tool_call_id="call67890"),
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "integer", "description": "A number."},
                    "how": {"enum": ["fast", "slow"], "default": "fast"},
                    "more": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
                },
                "required": ["a"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
WITH_TOOLS = ["llama3.1", "chatml", "mistral", "qwen3", "deepseek-r1", "gpt-oss"]


def prompt(family: str, messages: list[Message], **options: Any) -> str:
    source, name = LIBRARY.get(family)
    (span,) = ChatTemplate(source, name=name, bos_token="<s>", eos_token="</s>").render(messages, **options)
    return span.text


@pytest.mark.parametrize("family", LIBRARY.names())
def test_every_template_says_what_it_follows_and_whom_it_serves(family: str) -> None:
    header = LIBRARY.get(family).source.split("-#}")[0]

    assert header.startswith("{#- Format: ")
    assert "Serves: " in header


@pytest.mark.parametrize("family", LIBRARY.names())
def test_every_template_carries_each_text_of_a_chat_once(family: str) -> None:
    text = prompt(family, CHAT)

    assert [text.count(message.content) for message in CHAT] == [1, 1, 1, 1]


@pytest.mark.parametrize("family", LIBRARY.names())
def test_every_template_leaves_the_last_message_open_where_it_shall_be_continued(family: str) -> None:
    begun = [*CHAT, Message("assistant", "See you ")]

    text = prompt(family, begun, continues_last=True)

    assert text.endswith("See you ")
    assert prompt(family, begun, add_generation_prompt=False).startswith(text.rstrip())  # some trim what is said


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_templates_of_families_with_tools_carry_definitions_calls_and_results(family: str) -> None:
    text = prompt(family, TOOL_CHAT, tools=TOOLS)

    assert "Adds." in text and "now" in text
    assert '{"a": 1}' in text and '{"b": "ü"}' in text
    assert re.search(r"\b2\b.*\b0\b", text, re.DOTALL)


@pytest.mark.parametrize("family", LIBRARY.names())
@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("messages", [CHAT[1:], TOOL_CHAT], ids=["chat", "tools"])
def test_the_sandbox_renders_what_bare_jinja_renders(family: str, thinks: bool, messages: list[Message]) -> None:
    if messages is TOOL_CHAT and family not in WITH_TOOLS:
        messages = CHAT
    tools = TOOLS if messages is TOOL_CHAT else None
    sandbox = TemplateSandbox()
    bare = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, "jinja2.ext.loopcontrols"])
    bare.filters["tojson"] = text_of_json
    bare.globals |= {name: sandbox.globals[name] for name in ("raise_exception", "strftime_now")}
    expected = bare.from_string(LIBRARY.get(family).source).render(
        messages=[as_dict(message) for message in messages],
        tools=tools,
        enable_thinking=thinks,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )

    assert prompt(family, messages, tools=tools, think=thinks) == expected


def text_of_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def test_llama3() -> None:
    assert prompt("llama3", CHAT[:2]) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_llama3_1_opens_with_its_dates_and_gives_results_to_ipython() -> None:
    text = prompt("llama3.1", TOOL_CHAT, tools=TOOLS, extra={"date_string": "26 Jul 2024"})

    assert text.startswith(
        "<s><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting Knowledge Date: December 2023\n"
        "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, "
    )
    assert '<|end_header_id|>\n\n{"name": "add", "parameters": {"a": 1}}; {"name": "sub", "parameters": {"b": "ü"}}<|eot_id|>' in text
    assert "<|start_header_id|>ipython<|end_header_id|>\n\n2<|eot_id|><|start_header_id|>ipython" in text


def test_chatml() -> None:
    assert prompt("chatml", CHAT[:2]) == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_chatml_puts_neighbouring_results_into_one_turn() -> None:
    text = prompt("chatml", TOOL_CHAT, tools=TOOLS)

    assert (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "sub", "arguments": {"b": "ü"}}\n'
        "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n2\n</tool_response>\n<tool_response>\n0\n</tool_response><|im_end|>\n"
    ) in text


def test_mistral_puts_the_system_text_into_the_last_user_turn() -> None:
    assert prompt("mistral", CHAT) == "<s>[INST] Hi[/INST] Hello</s>[INST] Be brief.\n\nBye[/INST]"


def test_mistral_calls_tools_with_ids() -> None:
    text = prompt("mistral", TOOL_CHAT, tools=TOOLS)

    assert text.startswith('<s>[AVAILABLE_TOOLS] [{"type": "function"')
    assert '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "call12345"}, {"name": "sub"' in text
    assert text.endswith('[TOOL_RESULTS] {"content": "0", "call_id": "call67890"}[/TOOL_RESULTS]')


def test_gemma_has_no_system_turn() -> None:
    assert prompt("gemma", CHAT[:3]) == (
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>model\n"
    )


def test_phi3() -> None:
    assert prompt("phi3", CHAT[:2]) == "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"


def test_qwen3_opens_with_an_empty_thought_unless_it_may_think() -> None:
    assert prompt("qwen3", CHAT).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert prompt("qwen3", CHAT, think=True).endswith("<|im_start|>assistant\n")


def test_qwen3_keeps_thoughts_only_after_the_last_question() -> None:
    text = prompt("qwen3", [*TOOL_CHAT, Message("assistant", "Two.", reasoning="done"), Message("user", "Ok")])
    open_text = prompt("qwen3", TOOL_CHAT)

    assert "hm" not in text and "done" not in text
    assert "<|im_start|>assistant\n<think>\nhm\n</think>\n\n<tool_call>" in open_text


def test_deepseek_r1_leaves_earlier_thoughts_out_and_opens_a_new_one() -> None:
    messages = [*CHAT[:2], Message("assistant", "<think>hm</think>Hello"), Message("user", "Bye")]

    assert prompt("deepseek-r1", messages, think=True) == (
        "<s>Be brief.<｜User｜>Hi<｜Assistant｜>Hello</s><｜User｜>Bye<｜Assistant｜><think>\n"
    )
    assert prompt("deepseek-r1", messages).endswith("<think>\n\n</think>\n\n")


def test_deepseek_r1_closes_results_after_the_last() -> None:
    text = prompt("deepseek-r1", TOOL_CHAT)

    assert (
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>2<｜tool▁output▁end｜><｜tool▁output▁begin｜>0"
        "<｜tool▁output▁end｜><｜tool▁outputs▁end｜><｜Assistant｜>"
    ) in text


def test_gpt_oss_puts_instructions_into_a_developer_message() -> None:
    text = prompt("gpt-oss", CHAT, think="high")

    assert re.search(r"\nCurrent date: \d{4}-\d\d-\d\d\n\nReasoning: high\n\n# Valid channels: ", text)
    assert text.endswith(
        "<|end|><|start|>developer<|message|># Instructions\n\nBe brief.<|end|><|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hello<|end|><|start|>user<|message|>Bye<|end|><|start|>assistant"
    )


@pytest.mark.parametrize(("think", "effort"), [(None, "low"), (False, "low"), (True, "medium"), ("medium", "medium")])
def test_gpt_oss_thinks_little_unless_asked(think: Any, effort: str) -> None:
    assert f"Reasoning: {effort}\n" in prompt("gpt-oss", CHAT, think=think)


def test_gpt_oss_declares_tools_as_types_and_keeps_thoughts_of_an_open_call() -> None:
    text = prompt("gpt-oss", TOOL_CHAT, tools=TOOLS)

    assert (
        '// Adds.\ntype add = (_: {\n// A number.\na: number,\nhow?: "fast" | "slow", // default: "fast"\n'
        "more?: {\nx?: string,\n}[],\n}) => any;\n\ntype now = () => any;\n\n} // namespace functions<|end|>"
    ) in text
    assert (
        "<|start|>assistant<|channel|>analysis<|message|>hm<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>'
    ) in text
    assert "<|start|>functions.sub to=assistant<|channel|>commentary<|message|>0<|end|><|start|>assistant" in text


def test_plain() -> None:
    assert prompt("plain", CHAT) == "<s>Be brief.\n\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"
