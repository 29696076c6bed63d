"""Which names, limits and metadata a worker may have."""

import math
from typing import Any

import pytest

from worker_exporter.errors import UserError
from worker_sidecar.launch.launcher import Limits, WorkerSpec, check_names

GOOD = [
    ("llm", "8080"),
    ("a" * 64, "A" + "." * 63),
    ("0_a", "_x"),
    ("trainer", "main.v2"),
    ("cgroup", "cgroup"),
]
BAD = [
    ("", "1"),
    ("LLM", "1"),
    ("my-llm", "1"),
    ("llm\n", "1"),
    ("a" * 65, "1"),
    ("llm.slice", "1"),
    ("../llm", "1"),
    ("llm", ""),
    ("llm", "."),
    ("llm", ".."),
    ("llm", "a\n"),
    ("llm", "a/b"),
    ("llm", "a-b"),
    ("llm", "ä"),
    ("llm", "1" * 65),
    ("llm", "1" * 300),
    ("llm", "cgroup.procs"),
    ("llm", "memory.max"),
    ("llm", "8080.service"),
    ("llm", "a.slice"),
]


@pytest.mark.parametrize(("service", "instance"), GOOD)
def test_good_names(service: str, instance: str) -> None:
    check_names(service, instance)


@pytest.mark.parametrize(("service", "instance"), BAD)
def test_bad_names_are_one_line(service: str, instance: str) -> None:
    with pytest.raises(UserError) as caught:
        WorkerSpec(service, instance, ("true",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argv", [(), ("",), ("true", "a\0b")])
def test_commands_that_cannot_be(argv: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        WorkerSpec("llm", "1", argv)


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu_cores": 0.0},
        {"cpu_cores": math.nan},
        {"cpu_cores": math.inf},
        {"memory_bytes": -1},
        {"tasks": 0},
    ],
)
def test_limits_that_cannot_be(limits: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.parametrize(
    ("key", "value"), [("", "x"), ("a.b", "x"), ("Model", "x"), ("model", ""), ("model", "x" * 257)]
)
def test_metadata_that_cannot_be(key: str, value: str) -> None:
    with pytest.raises(UserError, match="metadata"):
        WorkerSpec("llm", "1", ("true",), metadata={key: value})
