"""The sandbox against templates that want the server's memory, its time or its secrets: each fails, soon, and with its line."""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from time import process_time

import pytest

from myllm.chat.template import ChatTemplate
from myllm.errors import TemplateFailed
from myllm.types import Message

NESTED_LIST = "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
NESTED_PAIR = NESTED_LIST + "{% set ns.y = ['a'] %}{% for i in range(60) %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
LONG = "{% set ns = namespace(s='a' * 1000) %}{% for i in range(11) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
PAIRS = "{% set ns = namespace(x=(1, 2)) %}"
MANY = "{% set many = range(100000) | list %}"

RUNAWAY_LOOPS = {
    "a_wide_range": "{% for i in range(10**10) %}{% endfor %}",
    "nested_loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a_loop_in_an_expression": "{{ range(99999) | map('string') | select('in', range(99999) | map('string') | list) | list | length }}",
    "a_rejecting_loop": MANY + "{{ many | reject('in', many) | list }}",
    "a_filtered_loop": "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "a_recursive_loop": "{% for a in [1] recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "plain_recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "exponential_recursion": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "recursion_through_caller": "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
    "comparing_nested_lists": NESTED_PAIR + "{{ ns.x == ns.y }}",
    "testing_nested_lists": NESTED_PAIR + "{{ ns.x is eq(ns.y) }}",
    "searching_nested_lists": NESTED_PAIR + "{{ ns.x in [ns.y] }}",
    "indexing_nested_lists": NESTED_PAIR + "{{ [ns.x].index(ns.y) }}",
    "sorting_nested_lists": NESTED_PAIR + "{{ [ns.x, ns.y] | sort | length }}",
    "changed_nested_lists": NESTED_PAIR + "{% for i in [1, 2] %}{{ loop.changed(ns.x if i == 1 else ns.y) }}{% endfor %}",
    "hashing_nested_tuples": PAIRS + "{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}",
    "hashing_tuples_from_items": (
        PAIRS + "{% for i in range(60) %}{% set ns.x = ({ns.x: ns.x} | items | list)[0] %}{% endfor %}{{ {ns.x: 1} }}"
    ),
    "searching_from_the_right": LONG + "{% for i in range(9999) %}{{ ns.s.rfind('b' + ns.s[:500000]) }}{% endfor %}",
    "stripping_many_letters": LONG + "{{ ns.s.strip('b' * 1000000 + 'a') }}",
    "trimming_many_letters": LONG + "{{ ns.s | trim('b' * 1000000 + 'a') }}",
    "summing_lists": MANY + "{{ many | batch(1) | sum(start=[]) | length }}",
    "a_long_attribute": MANY + "{% set c = namespace() %}{{ many | sort(attribute=('real.' * 5000)) }}",
    "a_power": "{{ 2 ** (10**9) }}",
    "a_tower_of_squares": "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "a_long_number": "{{ ('7' * 1000000) | int(base=8) }}",
    "dividing_long_numbers": "{% set a = 0x" + "f" * 3_000 + " %}{% set b = 0x" + "7" * 1_500 + " %}{{ (a // b) is odd }}",
    "rounding_to_many_digits": "{{ 3 | round(10**9, 'ceil') }}",
    "equal_lists": MANY + "{% set l = range(100000) | list %}{% for i in range(99999) %}{% if many != l %}{% endif %}{% endfor %}",
}

MEMORY_BOMBS = {
    "a_long_string": "{{ 'a' * 10**10 }}",
    "a_long_string_in_a_variable": "{% set x = 'a' * 10**10 %}",
    "a_long_list": "{% set x = [0] * 10**10 %}",
    "a_long_tuple": "{% set x = (0, 1) * 10**10 %}",
    "a_wide_percent": "{{ '%10000000000d' % 1 }}",
    "a_wide_percent_of_a_mapping": "{{ '%(a)10000000000d' % {'a': 1} }}",
    "a_precise_percent": "{{ '%.1000000000f' % 1.5 }}",
    "a_star_percent": "{{ '%*d' % (10**9, 1) }}",
    "a_wide_format_filter": "{{ '%1000000000s' | format('a') }}",
    "a_wide_format": "{{ '{:>10000000000}'.format(1) }}",
    "a_nested_format": "{{ '{:{}}'.format(1, 10**10) }}",
    "a_repeated_format": LONG + "{{ ('%(a)s' * 100000) % {'a': ns.s} }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "center": "{{ 'a' | center(10**10) }}",
    "indent": "{{ 'a\nb' | indent(10**9) }}",
    "indent_of_many_lines": "{{ ('a\n' * 1000000) | indent(9999) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "tojson_indent": NESTED_LIST + "{{ ns.x | tojson(indent=10**9) }}",
    "tojson_of_nested_lists": NESTED_LIST + "{{ ns.x | tojson }}",
    "indented_tojson_of_deep_lists": (
        "{% set ns = namespace(x=range(2000) | list) %}{% for i in range(90) %}{% set ns.x = [ns.x] %}{% endfor %}"
        "{% for i in range(99999) %}{% set s = ns.x | tojson(indent=16) %}{% endfor %}"
    ),
    "printing_nested_lists": NESTED_LIST + "{{ ns.x }}",
    "joining_nested_lists": NESTED_LIST + "{{ ns.x | join(',') }}",
    "concatenating_nested_lists": NESTED_LIST + "{{ ns.x ~ 'a' }}",
    "printing_a_namespace": "{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{{ ns }}",
    "doubling_with_plus": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling_with_tilde": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling_a_list": "{% set ns = namespace(x=[0]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling_with_a_block": (
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"
    ),
    "doubling_with_a_macro": (
        "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='ab') %}"
        "{% for i in range(60) %}{% set ns.x = f(ns.x) %}{% endfor %}"
    ),
    "doubling_with_replace": "{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "doubling_with_the_replace_filter": LONG + "{{ ns.s | replace('a', ns.s) }}",
    "doubling_with_join": LONG + "{{ ns.s.join(ns.s) }}",
    "doubling_with_the_join_filter": LONG + "{{ range(99999) | join(ns.s) }}",
    "splitting_into_many": LONG + "{% set ns.l = [] %}{% for i in range(60) %}{% set ns.l = ns.l + [ns.s.split('a')] %}{% endfor %}",
    "many_slices": LONG + "{% set ns.l = [] %}{% for i in range(9999) %}{% set ns.l = ns.l + [ns.s[1:]] %}{% endfor %}",
    "many_large_literals": (
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + [[" + "i," * 9_000 + "]] %}{% endfor %}"
    ),
    "huge_output": "{% for i in range(99999) %}" + "a" * 10_000 + "{% endfor %}",
    "huge_output_of_a_macro": "{% macro f() %}{% for i in range(99999) %}" + "a" * 10_000 + "{% endfor %}{% endmacro %}{{ f() }}",
    "lorem_ipsum": "{{ lipsum(n=10**9) }}",
    "a_long_date": "{{ strftime_now('%c' * 1000000) }}",
    "nested_generators": (
        "{% set ns = namespace(x=['a']) %}{% for i in range(99999) %}{% set ns.x = ns.x | map('string') %}{% endfor %}{{ 1 // 0 }}"
    ),
    "deep_lists": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
}

ESCAPES = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class_by_item": "{{ ''['__class__']['__mro__'] }}",
    "class_by_attr_filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "class_by_map": "{{ ['']|map(attribute='__class__')|map('attr', '__mro__')|list }}",
    "class_by_joined_name": "{{ ''['__cla' ~ 'ss__'].mro() }}",
    "globals_of_cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "globals_of_joiner": "{{ joiner.__init__.__globals__ }}",
    "globals_of_namespace": "{{ namespace.__init__.__globals__ }}",
    "globals_of_raise_exception": "{{ raise_exception.__globals__ }}",
    "globals_of_a_macro": "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "format_string": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_string_by_item": "{{ '{0[__class__]}'.format('') }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "format_by_attr": "{{ ('{0.__class__.__mro__}'|attr('format'))('') }}",
    "context_of_self": "{{ self._TemplateReference__context }}",
    "context_of_self_itself": "{{ self }}",
    "generator_frame": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "a_method_of_a_type": "{{ dict.fromkeys([1]) }}",
    "mro_of_a_type": "{{ cycler.mro() }}",
    "an_address": "{{ ''.upper }}",
    "changing_the_messages": "{{ messages.append(1) }}",
    "changing_a_message": "{{ messages[0].update({'role': 'system'}) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "from_import": "{% from 'os' import system %}",
    "extends": "{% extends '/etc/passwd' %}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "autoescape": "{% autoescape true %}{% endautoescape %}",
    "bytes": "{{ 'a'.encode() }}",
}

BROKEN = {
    "raises": "{{ raise_exception('no') }}",
    "raises_a_long_text": "{{ raise_exception('no ' * 100000) }}",
    "divides_by_zero": "{{ 1 / 0 }}",
    "adds_apples_and_pears": "{{ 'a' + 1 }}",
    "has_an_open_tag": "{% for a in b %}",
    "has_an_open_string": "{{ 'abc }}",
    "names_an_unknown_filter": "{{ 'a' | urlize }}",
    "names_an_unknown_test": "{{ 'a' is fine }}",
    "reads_from_nothing": "{{ nothing.at.all }}",
    "loops_over_a_number": "{% for a in 5 %}{% endfor %}",
    "nests_parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "nests_negations": "{{ " + "not " * 30_000 + "1 }}",
    "nests_conditions": "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "nests_loops": "{% for a in 'a' %}" * 500 + "{% endfor %}" * 500,
    "chains_attributes": "{{ a" + ".b" * 40_000 + " }}",
    "chains_sums": "{{ 1" + " + 1" * 30_000 + " }}",
    "chains_filters": "{{ 'a'" + "|upper" * 20_000 + " }}",
    "is_too_long": "a" * 131_073,
}

ATTACKS = RUNAWAY_LOOPS | MEMORY_BOMBS | ESCAPES | BROKEN
HELLO = [Message("user", "hello")]


def peak_megabytes() -> float:
    """The process's high-water mark; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def rendered(source: str, content: str = "hello") -> str:
    (span,) = ChatTemplate(source, name="test").render([Message("user", content)])
    return span.text


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_template_fails_soon_in_little_memory_and_names_its_line(attack: str) -> None:
    started, megabytes = process_time(), peak_megabytes()

    with pytest.raises(TemplateFailed) as failure:
        ChatTemplate(ATTACKS[attack], name="evil.jinja").render(HELLO)

    assert failure.value.message.startswith("chat template 'evil.jinja' failed at line ")
    assert len(failure.value.message) < 400
    assert process_time() - started < 4  # of the CPU, which a busy machine does not stretch; the deadline is one second
    assert peak_megabytes() - megabytes < 256


def test_a_failure_names_the_innermost_line() -> None:
    template = ChatTemplate("{% macro f() %}\n{{ 1 / 0 }}\n{% endmacro %}\n\n{{ f() }}", name="test")

    with pytest.raises(TemplateFailed, match="line 2: division by zero"):
        template.render(HELLO)


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(TemplateFailed, match="'test' failed at line 3"):
        ChatTemplate("a\nb\n{{ ) }}", name="test")


def test_a_failed_render_leaves_the_template_usable() -> None:
    template = ChatTemplate("{% if messages | length > 1 %}{{ 'a' * 10**10 }}{% endif %}ok", name="test")
    with pytest.raises(TemplateFailed):
        template.render(HELLO * 2)

    (span,) = template.render(HELLO)

    assert span.text == "ok"


def test_renders_in_several_threads_do_not_share_a_budget() -> None:
    template = ChatTemplate("{% for i in range(200) %}{{ 'a' * 10000 }}{% endfor %}", name="test")

    with ThreadPoolExecutor(4) as threads:
        prompts = list(threads.map(lambda _: template.render(HELLO), range(8)))

    assert {len(prompt[0].text) for prompt in prompts} == {2_000_000}


def test_a_long_conversation_has_a_budget_to_match() -> None:
    content = "a" * 3_000_000
    source = "{% for message in messages %}{% set text = message.content | trim %}{{ '<' + text + '>' }}{% endfor %}"

    assert len(rendered(source, content)) == 3_000_002


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("{% for i in [1, 2] %}{{ loop.index }}/{{ loop.length }}{{ '' if loop.last else ', ' }}{% endfor %}", "1/2, 2/2"),
        ("{% generation %}{{ 'a' }}{% endgeneration %}b", "ab"),
        ("{{ {'a<': 'é', 'b': [1, none]} | tojson }}", '{"a<": "é", "b": [1, null]}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ ['é'] | tojson(ensure_ascii=true) }}", '["\\u00e9"]'),
        ("{{ '%s is %05.2f' % ('pi', 3.14159) }}", "pi is 03.14"),
        ("{{ '{} {a:>4}'.format('x', a='y') }}", "x    y"),
        ("{{ messages | map(attribute='content') | join(', ') }}", "hello"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ (messages | first).content.split('l')[0] }}", "he"),
        ("{% for m in messages %}{% set ns = namespace(a=1) %}{{ m.content.replace('l', 'L') }}{{ ns.a }}{% endfor %}", "heLLo1"),
        ("{{ messages[::-1][0]['content'][1:3] }}", "el"),
        ("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hello;"),
        ("{% for k, v in messages[0] | dictsort %}{{ k }} {% endfor %}", "content role "),
        ("{{ 'b' in 'abc' and 'role' in messages[0] and 1 not in [2, 3] }}", "True"),
        ("{{ 1 ~ 'a' ~ none ~ [1] }}", "1aNone[1]"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}", "a1"),
        ("{% macro f(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call f(1) %}!{% endcall %}", "12!"),
        ("{{ {'update': 7}.update }}", "7"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 8 }} {{ 'ab' * 2 }} {{ [1] + [2] }}", "3 3 256 abab [1, 2]"),
        ("{% if true %}\n  {{ 'x' }}\n{% endif %}\ny", "  x\ny"),
    ],
)
def test_what_real_templates_do_still_works(source: str, text: str) -> None:
    assert rendered(source) == text


def test_the_date_is_the_servers() -> None:
    assert rendered("{{ strftime_now('%Y') }}").isdigit()
