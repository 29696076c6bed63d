"""Tokens are replaced, and nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sidecar.spec.template import fill, tokens, unknown

VALUES = {"port": "8080", "model": "{port}", "x_1": "$HOME"}

_LITERALS = st.text(st.characters(exclude_characters="{}$"), max_size=8)
_PIECES = st.one_of(
    st.sampled_from(sorted(VALUES)).map(lambda name: (f"{{{name}}}", VALUES[name])),
    _LITERALS.map(lambda text: (text, text)),
    st.sampled_from(
        ["{", "}", "{}", "{ port }", "{0}", "$$", "${port}", "{{", "%s", "{port.x}"]
    ).map(lambda text: (f" {text} ", f" {text} ")),
)


@given(st.lists(_PIECES, max_size=8))
def test_only_tokens_are_replaced_and_only_once(pieces: list[tuple[str, str]]) -> None:
    written, expected = (
        ("".join(part) for part in zip(*pieces, strict=True)) if pieces else ("", "")
    )
    assert fill(written, VALUES) == expected


def test_a_token_without_a_value_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        fill("--ctx={ctx}", VALUES)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{a}{b} {a}", ["a", "b", "a"]),
        ("{{a}}", ["a"]),
        ("${a} $$ {a b} {} {1}", []),
        ('{"json": {"x": 1}}', []),
    ],
)
def test_tokens(text: str, names: list[str]) -> None:
    assert tokens(text) == names


def test_an_unknown_token_is_named_with_those_there_are() -> None:
    assert unknown("{port} {modle}", ["port", "model"]) == (
        "{modle} is no token here; there are {port}, {model}"
    )
    assert unknown("{port} {model} {}", ["port", "model"]) is None
