"""From figures to text that Prometheus reads back as the same figures."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.parsers import READERS, read_openmetrics

from worker_exporter.cgroup.identity import Identity
from worker_exporter.metrics.exposition import Column, Unlabelled, decimal, sample_start
from worker_exporter.metrics.family import COUNTER, FAMILIES, GAUGE, Family, family
from worker_exporter.metrics.reference import reference

UNITS = {"seconds", "bytes", "cores", "ratio", "celsius", "watts", "joules"}

label_values = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@dataclass(eq=False)
class Named:
    """Something samples are about."""

    labels: tuple[tuple[str, str], ...]


LLM = Named((("service", "llm"), ("instance", "8080")))
OTHER = Named((("service", "tts"), ("instance", "0")))


def read_back(column: Column, form: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples of `column`, as prometheus_client reads them."""
    header = column.text_header if form == "text" else column.openmetrics_header
    end = "# EOF\n" if form == "openmetrics" else ""
    for metric in READERS[form](f"{(header + column.samples()).decode()}{end}"):
        for sample in metric.samples:
            yield sample.name, sample.labels, sample.value


def test_figures_by_fixed_label_values() -> None:
    column = Column(family("worker_cpu_seconds_total"))
    column.put(LLM, b"1.5", b"0.25")
    assert column.samples() == (
        b'worker_cpu_seconds_total{service="llm",instance="8080",mode="user"} 1.5\n'
        b'worker_cpu_seconds_total{service="llm",instance="8080",mode="system"} 0.25\n'
    )
    column.put(LLM, b"1.5", None)
    assert column.samples() == (
        b'worker_cpu_seconds_total{service="llm",instance="8080",mode="user"} 1.5\n'
    )


def test_what_is_put_again_replaces_and_keeps_its_place() -> None:
    column = Column(family("worker_up"))
    for worker in (LLM, OTHER):
        column.put(worker, b"1")
    column.put(LLM, b"0")
    assert column.samples() == (
        b'worker_up{service="llm",instance="8080"} 0\nworker_up{service="tts",instance="0"} 1\n'
    )


def test_what_is_dropped_is_gone_and_comes_back_with_the_same_figure() -> None:
    column = Column(family("worker_up"))
    column.put(LLM, b"1")
    column.put(OTHER, b"1")
    column.drop(LLM)
    assert column.samples() == b'worker_up{service="tts",instance="0"} 1\n'
    assert LLM not in column
    column.drop(LLM)
    column.put(LLM, b"1")
    assert b"llm" in column.samples()
    assert len(column) == 2


@pytest.mark.parametrize("values", [(None, None), (None,)])
def test_a_key_without_any_figure_is_not_there(values: tuple[None, ...]) -> None:
    name = "worker_cpu_seconds_total" if len(values) == 2 else "worker_up"
    column = Column(family(name))
    column.put(LLM, *values)
    assert len(column) == 0
    assert LLM not in column
    assert column.samples() == b""
    column.put(LLM, *([b"1"] * len(values)))
    column.put(LLM, *values)
    assert len(column) == 0
    assert column.samples() == b""


def test_a_figure_is_told_as_a_number() -> None:
    column = Column(family("worker_cpu_pct"))
    assert column.figure(LLM) is None
    column.put(LLM, b"12.50")
    column.put(OTHER, b"0")
    assert (column.figure(LLM), column.figure(OTHER)) == (12.5, 0)
    column.put(LLM, None)
    column.drop(OTHER)
    assert (column.figure(LLM), column.figure(OTHER)) == (None, None)


def test_figures_by_free_label_values() -> None:
    column = Column(family("worker_io_reads_total"))
    column.put_labelled(LLM, {("vda",): b"1", ("dm-0",): b"2"})
    column.put_labelled(LLM, {("vdb",): b"4", ("vda",): b"3"})
    found = {labels["device"]: value for _, labels, value in read_back(column, "openmetrics")}
    assert found == {"vdb": 4, "vda": 3}
    column.put_labelled(LLM, {})
    assert len(column) == 0
    assert column.samples() == b""


def test_a_label_without_a_value_is_left_out() -> None:
    assert sample_start("x", (("a", ""), ("b", "1"), ("c", ""))) == b'x{b="1"} '
    assert sample_start("x", (("a", ""),)) == b"x "
    column = Column(family("worker_node_cpus"))
    column.put(Unlabelled(), b"8")
    assert column.samples() == b"worker_node_cpus 8\n"


@pytest.mark.parametrize("form", READERS)
@given(service=label_values, instance=label_values, device=label_values)
def test_any_label_value_is_read_back(form: str, service: str, instance: str, device: str) -> None:
    labels = {"service": service, "instance": instance, "device": device}
    column = Column(family("worker_io_reads_total"))
    column.put_labelled(Named((("service", service), ("instance", instance))), {(device,): b"7"})
    line = column.samples().decode()
    assert line.count("\n") == 1
    assert unescaped(line) == labels
    if not re.search(r"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "".join(labels.values())):
        # prometheus_client alone splits lines at those; Prometheus splits at newlines only.
        assert list(read_back(column, form)) == [("worker_io_reads_total", labels, 7)]


def unescaped(line: str) -> dict[str, str]:
    """The labels of a sample line, by the rules of the text format."""
    found = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line, re.DOTALL)
    swap = {r"\\": "\\", r"\n": "\n", r"\"": '"'}
    return {name: re.sub(r"\\.", lambda each: swap[each[0]], value) for name, value in found}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimals_read_back_as_the_same_number(value: float) -> None:
    assert float(decimal(value)) == value


@pytest.mark.parametrize(
    ("value", "expected"), [(1.5, b"1.5"), (8.0, b"8"), (1e15, b"1" + b"0" * 15)]
)
def test_decimals_are_short(value: float, expected: bytes) -> None:
    assert decimal(value) == expected


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_headers(row: Family) -> None:
    column = Column(row)
    help_line, type_line = column.text_header.decode().splitlines()
    assert help_line.startswith(f"# HELP {row.name} ")
    assert row.source.split()[0].split("\\")[0] in help_line
    assert type_line == f"# TYPE {row.name} {row.type}"
    [metric] = read_openmetrics(f"{column.openmetrics_header.decode()}# EOF\n")
    assert (metric.name, metric.type) == (row.stem, row.type)
    assert metric.unit == row.unit
    assert not row.unit or metric.name.endswith(f"_{row.unit}")


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_names_follow_the_rules(row: Family) -> None:
    assert re.fullmatch(r"worker_[a-z_]+", row.name)
    assert row.name.endswith("_total") == (row.type == COUNTER)
    assert row.type in (COUNTER, GAUGE)
    assert len(row.labels) == 1 or not row.values
    assert not {"job", "node", "service", "instance"} & set(row.labels)
    assert not row.summary.endswith(".")
    parts = set(row.stem.split("_"))
    assert not parts & {"ms", "usec", "microseconds", "kb", "mb", "percent"}
    assert row.unit in UNITS or not parts & {"seconds", "bytes", "cores"} or "per" in parts


def test_no_name_is_given_twice() -> None:
    names = [row.name for row in FAMILIES]
    stems = [row.stem for row in FAMILIES]
    assert len(set(names)) == len(names)
    assert len(set(stems)) == len(stems)


def test_labels_that_are_gone_are_forgotten_and_may_come_back() -> None:
    column = Column(family("worker_io_reads_total"))
    key = Identity("llm", "8080")
    for number in range(100):
        column.put_labelled(key, {(f"d{number}",): b"%d" % number, ("vda",): b"7"})
    assert len(column._labelled_starts[key]) == 2
    column.put_labelled(key, {("d0",): b"1"})
    assert column.samples() == (
        b'worker_io_reads_total{service="llm",instance="8080",device="d0"} 1\n'
    )


def test_the_reference_of_metrics_is_up_to_date(pytestconfig: pytest.Config) -> None:
    page = pytestconfig.rootpath / "docs/metrics.md"
    assert page.read_text() == reference(), "make docs"
    assert all(f"`{row.name}`" in page.read_text() for row in FAMILIES)
