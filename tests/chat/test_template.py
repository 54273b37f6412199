"""What a template sees, and what its roles and refusals lead to."""

from __future__ import annotations

from typing import Any

import pytest

from myllm.chat.template import ChatTemplate, Think
from myllm.errors import InvalidRequest, TemplateFailed
from myllm.types import Message, Prompt, ToolCall

ECHO = "{{ messages | tojson }}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}: {{ m.content }}]{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
TAKES_SYSTEM = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}"


def rendered(source: str, *messages: Message, **options: Any) -> str:
    return text_of(ChatTemplate(source, name="test", bos_token="<s>", eos_token="</s>").render(messages, **options))


def text_of(prompt: Prompt) -> str:
    (span,) = prompt
    assert not span.is_literal
    return span.text


def test_a_message_has_only_the_fields_that_it_came_with() -> None:
    assert rendered(ECHO, Message("user", "hi")) == '[{"role": "user", "content": "hi"}]'


def test_reasoning_names_and_tool_calls_have_openais_shape() -> None:
    call = Message("assistant", "", reasoning="hm", tool_calls=(ToolCall("1", "add", '{"a": [1]}'),))
    result = Message("tool", "2", name="add", tool_call_id="1")

    assert rendered(ECHO, call, result) == (
        '[{"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": '
        '[{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": [1]}}}]}, '
        '{"role": "tool", "content": "2", "name": "add", "tool_call_id": "1"}]'
    )


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "7", '"a"', "[" * 100_000, "9" * 5_000])
def test_arguments_that_are_no_json_object_stay_as_the_model_wrote_them(arguments: str) -> None:
    message = Message("assistant", "", tool_calls=(ToolCall("1", "add", arguments),))

    assert rendered("{{ messages[0].tool_calls[0].function.arguments }}", message) == arguments


@pytest.mark.parametrize(
    ("think", "seen"),
    [(None, "False unset"), (False, "False unset"), (True, "True unset"), ("low", "True low"), ("high", "True high")],
)
def test_thinking_is_off_unless_asked_for(think: Think, seen: str) -> None:
    assert rendered("{{ enable_thinking }} {{ reasoning_effort | default('unset') }}", Message("user", ""), think=think) == seen


def test_extra_variables_may_turn_thinking_on_but_an_explicit_choice_wins() -> None:
    source, extra = "{{ enable_thinking }}", {"enable_thinking": True}

    assert rendered(source, extra=extra) == "True"
    assert rendered(source, extra=extra, think=False) == "False"


def test_extra_variables_cannot_replace_messages_or_special_tokens() -> None:
    source = "{{ bos_token }}{{ messages | length }}{{ tools }}{{ add_generation_prompt }}{{ mood }}"
    extra = {"bos_token": "x", "messages": [1, 2], "tools": [1], "add_generation_prompt": False, "mood": "calm"}

    assert rendered(source, Message("user", ""), extra=extra) == "<s>1NoneTruecalm"


def test_tools_are_none_where_there_are_none() -> None:
    assert rendered("{{ tools is none }}") == rendered("{{ tools is none }}", tools=[]) == "True"
    assert rendered("{{ tools | tojson }}", tools=[{"type": "function"}]) == '[{"type": "function"}]'


def test_the_generation_prompt_can_be_left_out() -> None:
    assert rendered("{% if add_generation_prompt %}A:{% endif %}", add_generation_prompt=False) == ""


@pytest.mark.parametrize("source", [NO_SYSTEM, DROPS_SYSTEM], ids=["raises", "drops"])
def test_a_template_without_a_system_turn_gets_it_in_the_first_user_turn(source: str) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")]

    assert rendered(source, *messages) == "[user: Be brief.\n\nHi][assistant: Hello][user: Bye]"


def test_a_template_with_a_system_turn_gets_it_as_it_is() -> None:
    assert rendered(TAKES_SYSTEM, Message("system", "Be brief."), Message("user", "Hi")) == "[system: Be brief.][user: Hi]"


@pytest.mark.parametrize(
    ("roles", "text"),
    [
        (["system"], "[user: 0]"),
        (["system", "system", "user"], "[user: 0\n\n1\n\n2]"),
        (["user", "system"], "[user: 0\n\n1]"),
        (["user", "assistant", "system", "user"], "[user: 0][assistant: 1][user: 2\n\n3]"),
        (["user", "assistant", "system"], "[user: 0][assistant: 1][user: 2]"),
    ],
)
def test_wherever_a_system_message_stands_its_text_is_kept(roles: list[Any], text: str) -> None:
    messages = [Message(role, str(index)) for index, role in enumerate(roles)]

    assert rendered(NO_SYSTEM, *messages) == text


def test_a_template_that_always_fails_reports_its_own_failure() -> None:
    with pytest.raises(TemplateFailed, match="line 1: never"):
        rendered("{{ raise_exception('never') }}", Message("system", "a"), Message("user", "b"))


def test_developer_becomes_system_for_templates_that_do_not_know_it() -> None:
    assert rendered(TAKES_SYSTEM, Message("developer", "a")) == "[system: a]"
    assert rendered("{# developer #}" + TAKES_SYSTEM, Message("developer", "a")) == "[developer: a]"
    assert rendered(NO_SYSTEM, Message("developer", "a"), Message("user", "b")) == "[user: a\n\nb]"


def test_a_message_to_be_continued_ends_the_prompt_with_its_text() -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}: {{ m.content | trim }}]{% endfor %}{% if add_generation_prompt %}[assistant: {% endif %}"
    )
    messages = [Message("user", "Count."), Message("assistant", "1, 2, ")]

    assert rendered(source, *messages, continues_last=True) == "[user: Count.][assistant: 1, 2, "


def test_control_tokens_in_a_message_to_be_continued_stay_text() -> None:
    template = ChatTemplate("{{ messages[0].content }}<|end|>", name="test", control_tokens=["<|end|>"])

    prompt = template.render([Message("assistant", "a<|end|>b<|e")], continues_last=True)

    assert [(span.text, span.is_literal) for span in prompt] == [("a<|end|>b<|e", True)]


@pytest.mark.parametrize(
    ("source", "roles"),
    [
        (TAKES_SYSTEM, ["assistant", "user"]),
        (TAKES_SYSTEM, []),
        (NO_SYSTEM, ["user", "system", "assistant"]),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", ["user", "assistant"]),
        ("{{ messages[-1].content }}{{ messages[-1].content }}", ["assistant"]),
    ],
    ids=["the user's is last", "there is none", "a system text would be lost", "the template drops it", "the template writes it twice"],
)
def test_what_cannot_be_continued_is_refused(source: str, roles: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="continued") as raised:
        rendered(source, *(Message(role, "x") for role in roles), continues_last=True)

    assert raised.value.param == "messages"


def test_no_messages_and_an_empty_template_give_one_empty_span() -> None:
    assert rendered("") == ""
