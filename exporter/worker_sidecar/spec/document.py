"""YAML as written: a tree of texts that knows the line of everything.

Nothing is turned into a number, a date or a truth here (08080, 12:30, yes and 1_000 stay what they
are): what a text means is for the key it stands at to say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from worker_sidecar.spec.problems import Key, Problem

MAX_DEPTH = 32
"""How deep mappings and lists may nest, far deeper than any key lies."""

MAX_NODES = 200_000
"""How many keys and values a document may have, those that aliases repeat counted each time."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOTHING = ("", "~", "null", "Null", "NULL")
_MERGE = "<<"
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]",
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as written; None where nothing is there."""

    line: int
    text: str | None
    size: int = 1


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    line: int
    items: "tuple[Node, ...]"
    size: int


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping; each key with its own line."""

    line: int
    entries: "Mapping[str, tuple[int, Node]]"
    size: int


Node = Scalar | Items | Entries


class DocumentError(Exception):
    """The text cannot be read as one YAML document."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.problem = Problem((), text, line)


def parse(text: str) -> tuple[Node | None, Sequence[Problem]]:
    """The only document in `text` (None: there is none), and keys that are there twice.

    Raises DocumentError.
    """
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise DocumentError(line, f"not YAML: the character {unprintable[0]!r} is not allowed")
    builder = _Builder(yaml.parse(text, Loader=_LOADER))
    try:
        return builder.document(), builder.problems
    except yaml.MarkedYAMLError as error:
        # What is missing at the end is missed behind the last line.
        last = text.rstrip().count("\n") + 1
        line = min(error.problem_mark.line + 1, last) if error.problem_mark else 1
        raise DocumentError(line, f"not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise DocumentError(1, f"not YAML: {' '.join(str(error).split())}") from None


def plain(node: Node | None) -> object:
    """The tree as dicts, lists, texts and None."""
    if isinstance(node, Entries):
        return {key: plain(value) for key, (_, value) in node.entries.items()}
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return node.text if node else None


def line_of(node: Node | None, key: Key) -> int:
    """The line where `key` stands, or the nearest thing around it that is there."""
    line = node.line if node else 1
    for part in key:
        if isinstance(node, Entries) and str(part) in node.entries:
            line, node = node.entries[str(part)]
        elif isinstance(node, Items) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            line = node.line
        else:
            break
    return line


@dataclass(slots=True)
class _Builder:
    """Turns the parser's events into the tree."""

    events: Iterator[Any]
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)

    def document(self) -> Node | None:
        node = None
        for event in self.events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            if node is not None:
                raise DocumentError(_line(event), "a second document begins here; only one may")
            node = self._node(next(self.events), ())
        return None if isinstance(node, Scalar) and node.text is None else node

    def _node(self, event: Any, key: Key) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if len(key) > MAX_DEPTH:
            raise DocumentError(_line(event), f"nested deeper than {MAX_DEPTH} levels")
        if event.tag is not None:
            raise DocumentError(
                _line(event), f"the tag {event.tag} is not understood; leave it out"
            )
        node = self._built(event, key)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _built(self, event: Any, key: Key) -> Node:
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(event, key)
        if isinstance(event, yaml.MappingStartEvent):
            return self._entries(event, key)
        nothing = event.implicit[0] and event.value in _NOTHING
        return Scalar(_line(event), None if nothing else event.value)

    def _alias(self, event: Any) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            text = f"*{event.anchor} repeats nothing: no &{event.anchor} ends before it"
            raise DocumentError(_line(event), text)
        return node

    def _items(self, start: Any, key: Key) -> Node:
        items: list[Node] = []
        size = 1
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*key, len(items))))
            size = _sum(event, size, items[-1])
        return Items(_line(start), tuple(items), size)

    def _entries(self, start: Any, key: Key) -> Node:
        entries: dict[str, tuple[int, Node]] = {}
        merged: list[Entries] = []
        size = 1
        for event in self.events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            name = self._key(event)
            value = self._node(next(self.events), (*key, name))
            size = _sum(event, size, value)
            if name == _MERGE and event.implicit[0]:
                merged += _mappings(event, value)
            elif name in entries:
                text = f"is there twice, first in line {entries[name][0]}; keep one"
                self.problems.append(Problem((*key, name), text, _line(event)))
            else:
                entries[name] = (_line(event), value)
        for mapping in merged:
            entries = {**mapping.entries, **entries}
        return Entries(_line(start), entries, size)

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise DocumentError(_line(event), "a key must be plain text")
        if event.tag is not None or event.anchor is not None:
            raise DocumentError(_line(event), "a key must have no tag and no anchor")
        return str(event.value)


def _mappings(event: Any, value: Node) -> list[Entries]:
    """What a merge key merges in: a mapping, or several, the first of which wins."""
    found = value.items if isinstance(value, Items) else (value,)
    mappings = [item for item in found if isinstance(item, Entries)]
    if len(mappings) < len(found):
        raise DocumentError(_line(event), "<< takes a mapping, or a list of mappings")
    return mappings


def _sum(event: Any, size: int, node: Node) -> int:
    if size + node.size > MAX_NODES:
        text = f"more than {MAX_NODES} keys and values, counted with what aliases repeat"
        raise DocumentError(_line(event), text)
    return size + node.size


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
