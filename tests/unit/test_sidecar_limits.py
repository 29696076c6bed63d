"""Limits as people write them, and as they must not."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sidecar.errors import InputError
from worker_sidecar.launch.limits import (
    LARGEST,
    IoLimit,
    Limits,
    cpu_list,
    cpu_set,
    parse_bandwidth,
    parse_cpu,
    parse_memory,
)


@pytest.mark.parametrize(
    ("text", "cores"), [("200%", 2.0), ("2", 2.0), ("0.5", 0.5), ("12.5%", 0.125)]
)
def test_cpu(text: str, cores: float) -> None:
    assert parse_cpu(text) == cores


@pytest.mark.parametrize("text", ["", "%", "-1", "1e3", "2 ", "two", "٢", ".5", "1%%", "nan"])
def test_cpu_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="limit cpu"):
        parse_cpu(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("300M", 300 * 1024**2), ("8G", 8 * 1024**3), ("4096", 4096), ("1.5K", 1536), ("1P", 2**50)],
)
def test_memory_counts_in_1024(text: str, size: int) -> None:
    assert parse_memory(text) == size


def test_bandwidth_counts_in_1000() -> None:
    assert parse_bandwidth("10M") == 10_000_000


@pytest.mark.parametrize("text", ["", "M", "-1M", "1m", "1MB", "1 M", "0x10", "max"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="limit memory"):
        parse_memory(text)
    with pytest.raises(InputError, match="limit bandwidth"):
        parse_bandwidth(text)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-3,8", {0, 1, 2, 3, 8}), ("1,1,0-1", {0, 1})]
)
def test_cpu_sets(text: str, cpus: set[int]) -> None:
    assert cpu_set(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,", "-1", "0-8192", "1 2", "0-3/2"])
def test_cpu_sets_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="limit cpus"):
        cpu_set(text)


@given(st.sets(st.integers(0, 8191), min_size=1))
def test_a_cpu_list_means_its_set(cpus: set[int]) -> None:
    assert cpu_set(cpu_list(cpus)) == cpus


def test_a_cpu_list_is_in_the_kernels_form() -> None:
    assert cpu_list({8, 0, 1, 2, 3}) == "0-3,8"
    assert cpu_list(()) == ""


@pytest.mark.parametrize(
    "limits",
    [
        {"cpu": 0.0},
        {"cpu": math.nan},
        {"cpu": math.inf},
        {"cpu": 8193.0},
        {"cpu": True},
        {"cpu_weight": 0},
        {"cpu_weight": 10_001},
        {"cpus": "x"},
        {"memory": -1},
        {"memory": 4095},
        {"memory": LARGEST + 1},
        {"memory_high": 0},
        {"swap": -1},
        {"io_weight": 0},
        {"tasks": 0},
        {"tasks": 2**22 + 1},
    ],
)
def test_limits_that_cannot_be(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"limit {next(iter(limits))}"):
        Limits(**limits)


@pytest.mark.parametrize(
    "limit",
    [
        {"path": "dev/sda"},
        {"path": "/dev/sda\n"},
        {"path": "/", "read_bandwidth": 0},
        {"path": "/", "write_iops": -1},
    ],
)
def test_io_limits_that_cannot_be(limit: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="limit io"):
        IoLimit(**limit)


def test_one_path_has_its_limits_once() -> None:
    with pytest.raises(InputError, match="there twice"):
        Limits(io=(IoLimit("/", read_bandwidth=1), IoLimit("/", write_bandwidth=1)))


def test_memory_alone_leaves_no_swap() -> None:
    assert Limits(memory=2**20).swap_max == 0
    assert Limits(memory=2**20, swap=5).swap_max == 5
    assert Limits().swap_max is None


def test_nothing_limited_is_false() -> None:
    assert not Limits()
    assert Limits(swap=0)
    assert Limits(io=(IoLimit("/", read_iops=1),))
