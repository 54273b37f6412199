"""Control tokens that somebody wrote into a message stay letters; those of the template stay tokens."""

from __future__ import annotations

import re
from time import process_time

import pytest
from hypothesis import given, settings, strategies as st

from myllm.chat.literals import ControlTokens
from myllm.chat.template import ChatTemplate
from myllm.errors import InvalidRequest, TemplateFailed
from myllm.types import Message, Prompt, Span, ToolCall

TOKENS = ("<|start|>", "<|end|>", "<|eot_id|>", "</s>", "<|a|>", "<|a|>b")
SOURCE = "{% for m in messages %}<|start|>{{ m.role }}: {{ m.content | trim }}<|end|>{% endfor %}"
PRIVATE = "\U000f0000\U000fabcd\ue000"


def template(source: str = SOURCE) -> ChatTemplate:
    return ChatTemplate(source, name="test", control_tokens=TOKENS)


def text_of(prompt: Prompt) -> str:
    return "".join(span.text for span in prompt)


def count_tokens(prompt: Prompt) -> int:
    pattern = re.compile("|".join(map(re.escape, sorted(TOKENS, key=len, reverse=True))))
    return sum(len(pattern.findall(span.text)) for span in prompt if not span.is_literal)


@pytest.mark.parametrize("content", ["", "hello", "<", "> a quote", "<|eot_", "end", PRIVATE, "a" * 100_000, "<|eot id|>"])
def test_a_message_without_control_tokens_gives_one_span_of_the_rendered_text(content: str) -> None:
    prompt = template().render([Message("user", content)])

    assert prompt == (Span(f"<|start|>user: {content.strip()}<|end|>"),)


def test_a_control_token_in_a_message_makes_the_run_around_it_literal() -> None:
    prompt = template().render([Message("user", "a <|eot_id|> b"), Message("assistant", "c")])

    assert prompt == (
        Span("<|start|>"),
        Span("user: a <|eot_id|> b", is_literal=True),
        Span("<|end|><|start|>assistant: c<|end|>"),
    )


def test_the_longer_of_two_tokens_is_put_back_whole() -> None:
    prompt = template().render([Message("user", "x<|a|>b<|a|>c")])

    assert prompt[1] == Span("user: x<|a|>b<|a|>c", is_literal=True)


def test_private_use_letters_survive_beside_a_control_token() -> None:
    content = "".join(map(chr, range(0xF0000, 0xF4000))) + PRIVATE + "</s>"

    prompt = template().render([Message("user", content)])

    assert prompt[1] == Span(f"user: {content}", is_literal=True)


def test_a_message_that_leaves_no_private_use_letter_is_refused() -> None:
    content = "".join(map(chr, range(0xF0000, 0xFFFFE))) + "</s>"

    with pytest.raises(InvalidRequest, match="65,534 different private-use characters"):
        template().render([Message("user", content)])


def test_a_template_cannot_be_taken_for_a_mask() -> None:
    private = "".join(map(chr, range(0xF0000, 0xF8000)))

    prompt = template(private + "{{ messages[0].content }}").render([Message("user", "</s>")])

    assert text_of(prompt) == private + "</s>"


def test_every_string_of_a_message_and_of_a_tool_is_masked() -> None:
    source = "{{ messages | tojson }}{{ tools | tojson }}{{ note }}<|end|>"
    call = ToolCall(id="</s>", name="</s>", arguments='{"\\u003c/s>": ["</s>", {"</s>": 1}]}')
    message = Message("assistant", "</s>", reasoning="</s>", name="</s>", tool_calls=(call,), tool_call_id="</s>")
    tools = [{"type": "function", "function": {"name": "</s>", "parameters": {"</s>": ["</s>"]}}}]

    prompt = template(source).render([message], tools=tools, extra={"note": "</s>"})

    assert count_tokens(prompt) == 1
    assert text_of(prompt).count("</s>") == 13


@pytest.mark.parametrize("content", ["</s>", "é</s>", "<|eot_"])
def test_ascii_json_is_unmasked_too(content: str) -> None:
    source = "{{ messages[0].content | tojson(ensure_ascii=true) }}<|end|>"
    expected = ChatTemplate(source, name="bare").render([Message("user", content)])

    prompt = template(source).render([Message("user", content)])

    assert text_of(prompt) == text_of(expected)
    assert count_tokens(prompt) == 1


@pytest.mark.parametrize(
    ("source", "contents"),
    [
        ("{{ messages[0].content }}id|><|end|>", ["a<|eot_"]),
        ("{{ messages[0].content | trim }}id|><|end|>", ["a<|eot_ \n"]),
        ("<|end|><|eot_{{ messages[0].content }}", ["id|> a"]),
        ("<|end|><|eot_{{ messages[0].content | trim }}", [" \nid|> a"]),
        ("<|end|><|{{ messages[0].content }}|>", ["eot_id"]),
        ("{{ messages[0].content }}{{ messages[1].content }}<|end|>", ["<|eot", "_id|>"]),
        ("{{ messages[0].content }}{{ messages[1].content }}{{ messages[2].content }}<|end|>", ["<|eot", "_i", "d|>"]),
        ("<|a|>{{ messages[0].content }}", ["b"]),
        ("<{{ messages[0].content }}<|end|>", ["/s>"]),
    ],
)
def test_a_token_that_forms_across_a_seam_is_text(source: str, contents: list[str]) -> None:
    messages = [Message("user", content) for content in contents]
    bare = ChatTemplate(source, name="bare").render(messages)

    prompt = template(source).render(messages)

    assert text_of(prompt) == text_of(bare)
    assert count_tokens(prompt) == 1


def test_a_token_that_a_template_builds_from_a_role_is_its_own() -> None:
    roles = ChatTemplate("{{ '<|' + messages[0].role + '|>' + messages[0].content }}", name="test", control_tokens=["<|user|>", "</s>"])

    prompt = roles.render([Message("user", "hi </s>")])

    assert prompt == (Span("<|user|>"), Span("hi </s>", is_literal=True))


def test_a_mask_cannot_be_cut_in_half_and_no_filter_changes_it() -> None:
    source = "{% for c in messages[0].content | upper | lower | trim %}{{ c }}{% endfor %}<|end|>"

    prompt = template(source).render([Message("user", " x</s>y ")])

    assert prompt == (Span("x</s>y", is_literal=True), Span("<|end|>"))


@given(tokens=st.sets(st.text("ab<|\n.", min_size=1, max_size=5), min_size=1, max_size=9), text=st.text("ab<|\n.", max_size=30))
def test_the_longest_token_at_a_place_is_found(tokens: set[str], text: str) -> None:
    plain = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))

    assert ControlTokens(tokens).pattern.findall(text) == plain.findall(text)


def test_a_message_of_nearly_tokens_is_searched_in_linear_time() -> None:
    control = ControlTokens(f"<|reserved_special_token_{number}|>" for number in range(5_000))
    started = process_time()

    mask = control.mask([{"role": "user", "content": "<|reserved_special_token_" * 40_000 + "a"}], {})

    assert mask is None
    assert process_time() - started < 1  # 0.03 s on one core; an alternation of all tokens takes minutes


def test_a_vocabulary_of_nested_or_endless_tokens_compiles() -> None:
    control = ControlTokens(["<" * size for size in range(1, 3_000)])

    assert control.longest == 128


def test_a_vocabulary_without_control_tokens_masks_nothing() -> None:
    control = ControlTokens(["", ""])

    assert control.mask([{"role": "user", "content": "<|end|>"}], {}) is None


# Whole tokens, their halves (never an inner part, which only a template that knows the token could complete) and words.
HALVES = [part for token in TOKENS for cut in range(1, len(token)) for part in (token[:cut], token[cut:])]
WRITTEN = st.lists(st.sampled_from([*TOKENS, *HALVES, "hi", " ", "\n", "é", PRIVATE]), max_size=6).map("".join)
BARRIER = "\N{SNOWMAN}"  # part of no token: what stands in for a content where only the template's tokens count


@settings(max_examples=400, deadline=None)
@given(contents=st.lists(WRITTEN, min_size=1, max_size=4), between=st.lists(WRITTEN, min_size=5, max_size=5), trims=st.booleans())
def test_spans_join_to_the_bare_rendering_and_hold_exactly_the_templates_tokens(
    contents: list[str], between: list[str], trims: bool
) -> None:
    slot = "{{ messages[%d].content | trim }}" if trims else "{{ messages[%d].content }}"
    source = between[0] + "".join(slot % index + between[index + 1] for index in range(len(contents)))
    messages = [Message("user", content) for content in contents]
    bare = ChatTemplate(source, name="bare")
    stand_ins = [Message("user", BARRIER if (content.strip() if trims else content) else "") for content in contents]

    prompt = template(source).render(messages)

    assert text_of(prompt) == text_of(bare.render(messages))
    assert count_tokens(prompt) == count_tokens(bare.render(stand_ins))


@pytest.mark.parametrize("last", [Message("user", "and <|eot_id|>"), Message("assistant", "and <|eot_id|>")])
def test_the_letters_that_stand_for_tokens_are_not_in_the_error_of_a_template(last: Message) -> None:
    """A template that put the messages into its own error showed the letters that hide control tokens."""
    refusing = template("{{ messages[-1].content }}{% if messages | length > 1 %}{{ raise_exception(messages[-1].content) }}{% endif %}")

    with pytest.raises(TemplateFailed) as failed:
        refusing.render([Message("user", "x"), last], continues_last=last.role == "assistant")

    assert "and <|eot_id|>" in failed.value.message and failed.value.message.isascii()
