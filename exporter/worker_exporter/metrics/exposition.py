"""From figures to Prometheus text: a column of kept lines for each family.

Samples look the same in text 0.0.4 and in OpenMetrics 1.0; only the lines above them differ.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from worker_exporter.metrics.family import Family


class Labelled(Protocol):
    """What samples are about: a worker, or anything else with labels of its own."""

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the labels that all its samples carry."""
        ...


class Unlabelled:
    """What samples without labels of their own are about: the node, the exporter."""

    labels: tuple[tuple[str, str], ...] = ()


class Column:
    """The samples of one family, kept as text by what they are about.

    Text stays until it is put anew or dropped, so a figure that did not change costs nothing.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.text_header = text_header(family)
        self.openmetrics_header = openmetrics_header(family)
        self._text: dict[Labelled, bytes] = {}
        self._values: dict[Labelled, tuple[bytes | None, ...]] = {}
        self._starts: dict[Labelled, tuple[bytes, ...]] = {}
        self._labelled_starts: dict[Labelled, dict[tuple[str, ...], bytes]] = {}
        self._samples: bytes | None = b""

    def __contains__(self, key: Labelled) -> bool:
        return key in self._text

    def __len__(self) -> int:
        return len(self._text)

    def put(self, key: Labelled, *values: bytes | None) -> None:
        """The figures of `key`, one for each of the family's fixed label values (one where it
        has none). None leaves that sample out.
        """
        if self._values.get(key) == values:
            return
        self._values[key] = values
        starts = self._starts.get(key)
        if starts is None:
            starts = self._starts[key] = self._fixed_starts(key)
        if len(values) == 1 and values[0] is not None:
            text = starts[0] + values[0] + b"\n"
        else:
            text = b"".join(
                [
                    start + value + b"\n"
                    for start, value in zip(starts, values, strict=True)
                    if value is not None
                ]
            )
        self._keep(key, text)

    def put_labelled(self, key: Labelled, samples: Mapping[tuple[str, ...], bytes]) -> None:
        """The figures of `key` by the values of the family's further labels."""
        starts = self._labelled_starts.get(key, {})
        if starts.keys() != samples.keys():
            starts = self._labelled_starts[key] = {
                values: starts.get(values) or self._labelled_start(key, values)
                for values in samples
            }
        text = b"".join([starts[values] + value + b"\n" for values, value in samples.items()])
        self._keep(key, text)

    def drop(self, key: Labelled) -> None:
        """No figures of `key` any more."""
        self._values.pop(key, None)
        self._starts.pop(key, None)
        self._labelled_starts.pop(key, None)
        if self._text.pop(key, None) is not None:
            self._samples = None

    def figure(self, key: Labelled) -> float | None:
        """The figure of `key`, None where it has none; for families with one figure a key."""
        (value,) = self._values.get(key, (None,))
        return None if value is None else float(value)

    def samples(self) -> bytes:
        """All sample lines, in the order in which their keys were first put."""
        if self._samples is None:
            self._samples = b"".join(self._text.values())
        return self._samples

    def _keep(self, key: Labelled, text: bytes) -> None:
        """A key without any sample is not in the column: a family of none has no lines at all."""
        if text:
            self._text[key] = text
        else:
            self._text.pop(key, None)
        self._samples = None

    def _labelled_start(self, key: Labelled, values: tuple[str, ...]) -> bytes:
        further = zip(self.family.labels, values, strict=True)
        return sample_start(self.family.name, (*key.labels, *further))

    def _fixed_starts(self, key: Labelled) -> tuple[bytes, ...]:
        name, labels = self.family.name, key.labels
        if not self.family.values:
            return (sample_start(name, labels),)
        further = self.family.labels[0]
        return tuple(
            sample_start(name, (*labels, (further, value))) for value in self.family.values
        )


def sample_start(name: str, labels: Iterable[tuple[str, str]]) -> bytes:
    """A sample line up to its value. Labels without a value are left out, as they mean the same."""
    pairs = ",".join(f'{label}="{_escape(value)}"' for label, value in labels if value)
    return (f"{name}{{{pairs}}} " if pairs else f"{name} ").encode()


def text_header(family: Family) -> bytes:
    """HELP and TYPE in text 0.0.4."""
    lines = (
        f"# HELP {family.name} {_escape_help(family.help)}\n",
        f"# TYPE {family.name} {family.type}\n",
    )
    return "".join(lines).encode()


def openmetrics_header(family: Family) -> bytes:
    """HELP, TYPE and, where the family has one, UNIT in OpenMetrics 1.0."""
    lines = (
        f"# HELP {family.stem} {_escape(family.help)}\n",
        f"# TYPE {family.stem} {family.type}\n",
        f"# UNIT {family.stem} {family.unit}\n" if family.unit else "",
    )
    return "".join(lines).encode()


def decimal(value: float) -> bytes:
    """A figure in the shortest form that reads back as the same number."""
    if value == int(value):
        return b"%d" % int(value)
    return repr(value).encode()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
