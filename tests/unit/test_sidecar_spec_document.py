"""YAML as written: texts, lines, and what is refused before anything looks at it."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from worker_sidecar.spec import document
from worker_sidecar.spec.document import DocumentError, line_of, parse, plain

_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
_KEYS = _TEXTS.filter(lambda text: text != "<<")
_TREES: st.SearchStrategy[Any] = st.recursive(
    _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


def data(text: str) -> object:
    root, problems = parse(text)
    assert not problems
    return plain(root)


@given(st.dictionaries(_KEYS, _TREES, min_size=1, max_size=4), st.sampled_from([True, False, None]))
def test_what_another_writes_is_read(tree: dict[str, object], flow: bool | None) -> None:
    written = yaml.dump(
        tree, Dumper=yaml.SafeDumper, default_style='"', default_flow_style=flow, allow_unicode=True
    )
    assert data(written) == tree


@pytest.mark.parametrize(
    "text",
    ["08080", "1_000", "yes", "off", "0o17", "0x1f", "12:30", "2026-01-02", "1e3", ".inf", "true"],
)
def test_plain_texts_stay_as_they_are(text: str) -> None:
    assert data(f"{text}: {text}\nlist: [{text}]") == {text: text, "list": [text]}


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_nothing_is_none_unless_in_quotes(text: str) -> None:
    assert data(f"a: {text}\nb: '{text}'") == {"a": None, "b": text}


@pytest.mark.parametrize("text", ["", "# only this\n", "---\n", "~"])
def test_a_document_of_nothing_is_none(text: str) -> None:
    assert parse(text)[0] is None


def test_lines() -> None:
    root, _ = parse("a:\n  b: 1\n  c:\n    - x\n    -\n      d: 2\n# end\ne: {f: 3}\n")
    assert line_of(root, ("a",)) == 1
    assert line_of(root, ("a", "b")) == 2
    assert line_of(root, ("a", "c", 0)) == 4
    assert line_of(root, ("a", "c", 1, "d")) == 6
    assert line_of(root, ("e", "f")) == 8
    assert line_of(root, ("a", "missing")) == 1
    assert line_of(root, ("a", "c", 7)) == 3
    assert line_of(None, ("a",)) == 1


def test_keys_that_are_there_twice_are_told_and_the_first_holds() -> None:
    root, problems = parse("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n")
    assert [(problem.line, str(problem)) for problem in problems] == [
        (5, "b.c: is there twice, first in line 3; keep one"),
        (6, "a: is there twice, first in line 1; keep one"),
    ]
    assert plain(root) == {"a": "1", "b": {"c": "1", "d": "2"}}


def test_aliases_and_merges_are_what_yaml_says() -> None:
    text = """\
x: &x {a: one, b: two}
y: &y {b: other, c: three}
p: *x
q: {<<: *x, b: own}
r: {<<: [*x, *y], d: four}
"""
    assert data(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [", 1, "not YAML: "),
        ("a: 1\nb: c: d", 2, "not YAML: mapping values are not allowed"),
        ("a:\n\t- b", 2, "not YAML: found character"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("a: 1\nb: !x y", 2, "the tag !x is not understood"),
        ("a: !!python/object:os.system {}", 1, "the tag tag:yaml.org"),
        ("a: 1\nb: *c", 2, "*c repeats nothing"),
        ("a: &a [*a]", 1, "*a repeats nothing"),
        ("? [a]\n: b", 1, "a key must be plain text"),
        ("&a b: c", 1, "a key must have no tag and no anchor"),
        ("a: {<<: 5}", 1, "<< takes a mapping"),
        ("a: 1\nb: \x01", 2, "not YAML: the character '\\x01'"),
        ("a: 1\nb: \udc80", 2, "not YAML: the character"),
        ("a: " + "[" * 33 + "]" * 33, 1, "nested deeper than 32"),
        ("[" * 1_000_000, 1, "nested deeper than 32"),
        ("- " * 500_000, 1, "nested deeper than 32"),
        ("{a: " * 100_000, 1, "nested deeper than 32"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert caught.value.problem.line == line
    assert message in caught.value.problem.text and "\n" not in caught.value.problem.text


def bomb(form: str) -> str:
    """Twenty levels, each nine times the one above it."""
    lines = ["a0: &a0 {x: y}"]
    for level in range(1, 20):
        nine = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + form % nine)
    return "\n".join(lines)


@pytest.mark.parametrize("form", ["[%s]", "{<<: [%s]}"])
def test_a_bomb_of_aliases_is_refused_before_it_grows(form: str) -> None:
    # 9^19 values would take years.
    with pytest.raises(DocumentError, match="more than 200000 keys and values"):
        parse(bomb(form))


def test_without_libyaml_it_is_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: 08080\nb: ['', ~]\nc: &x {d: 'null'}\ne: *x\n"
    first = parse(text)
    monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)
    assert parse(text) == first
    with pytest.raises(DocumentError, match="not YAML: ") as caught:
        parse("a: 1\nb: c: d")
    assert caught.value.problem.line == 2
    with pytest.raises(DocumentError, match="nested deeper"):
        parse("[" * 10_000)
