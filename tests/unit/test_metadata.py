"""What launchers wrote on a cgroup: extended attributes, good and bad."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.trees import kernel, set_attribute

from worker_exporter.cgroup.files import Cgroup
from worker_exporter.cgroup.metadata import (
    HEALTH,
    Metadata,
    parse_health,
    port_of,
    read_health,
    read_metadata,
)

PORTS = {str(port) for port in range(1, 65536)}


@pytest.fixture(params=[10, 0], ids=["kept", "none"])
def cgroup(request: pytest.FixtureRequest, tmp_path: Path) -> Cgroup:
    each = Cgroup("a", str(tmp_path), tmp_path.stat().st_ino)
    each.open(kernel(tmp_path, request.param).descriptors)
    return each


def test_nothing_was_written(cgroup: Cgroup) -> None:
    errors = Counter[str]()
    assert read_metadata(cgroup, errors) == Metadata()
    assert read_health(cgroup) is None
    assert not errors


def test_all_that_can_be_written(cgroup: Cgroup, tmp_path: Path) -> None:
    for name, value in (
        ("model", b'llama "q4"\\\n'),
        ("port", b"8080"),
        ("gpu", b"GPU-0"),
        ("started", b"1767225600.25"),
        ("health", b"1 1767225601 10"),
        ("something", b"else"),
    ):
        set_attribute(tmp_path, f"user.worker.{name}", value)
    set_attribute(tmp_path, "user.invocation_id", b"4f")
    errors = Counter[str]()
    assert read_metadata(cgroup, errors) == Metadata(
        'llama "q4"\\\n', "8080", "GPU-0", 1767225600.25
    )
    assert not errors
    assert read_health(cgroup) == b"1 1767225601 10"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", b"\xff"),
        ("model", b"a" * 257),
        ("model", b""),
        ("gpu", b"\xc3"),
        ("port", b"0"),
        ("port", b"65536"),
        ("port", b"http"),
        ("port", "٨".encode()),
        ("started", b"yesterday"),
        ("started", b"-1"),
        ("started", b"nan"),
        ("started", b"inf"),
    ],
)
def test_what_makes_no_sense_is_left_out_and_counted(
    cgroup: Cgroup, tmp_path: Path, name: str, value: bytes
) -> None:
    set_attribute(tmp_path, f"user.worker.{name}", value)
    errors = Counter[str]()
    assert read_metadata(cgroup, errors) == Metadata()
    assert errors == {f"user.worker.{name}": 1}


@given(st.one_of(st.text(max_size=8), st.integers(-10, 70_000).map(str)))
def test_ports(text: str) -> None:
    assert port_of(text) == (text if text in PORTS else "")


@given(st.one_of(st.binary(max_size=40), st.text("01 .e+-naif", max_size=20).map(str.encode)))
def test_health_is_whole_or_refused(value: bytes) -> None:
    try:
        health = parse_health(value)
    except ValueError:
        return
    assert health.ready in (b"0", b"1")
    assert 0 < health.time < float("inf")
    assert health.interval > 0


def test_a_cgroup_that_is_gone_says_nothing(tmp_path: Path) -> None:
    gone = Cgroup("a", f"{tmp_path}/a", 1)
    assert read_metadata(gone, Counter()) == Metadata()
    assert read_health(gone) is None
    assert HEALTH.startswith("user.worker.")
