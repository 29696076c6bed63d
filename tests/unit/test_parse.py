"""From the bytes of kernel files to figures: right, or ValueError."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_exporter.cgroup import parse, procfs
from worker_exporter.cgroup.metadata import parse_health

CPU_STAT = b"""\
usage_usec 5309234
user_usec 3101003
system_usec 2208231
nice_usec 0
nr_periods 40
nr_throttled 3
throttled_usec 123456
nr_bursts 0
burst_usec 0
"""
IO_STAT = b"""\
254:0 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=50
8:16 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021
"""
PRESSURE = b"""\
some avg10=0.22 avg60=0.17 avg300=0.00 total=58761
full avg10=0.00 avg60=0.13 avg300=0.00 total=12
"""
STAT = (
    b"4022 (a) b (c) S 1 4022 4022 0 -1 4194304 95 0 0 0 7 3 0 0 20 0 1 0 "
    b"81234 2789376 224 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0\n"
)
REAL = {
    parse.flat_keyed: CPU_STAT,
    parse.nested_keyed: IO_STAT,
    parse.pressure: PRESSURE,
    parse.number: b"123456789\n",
    parse.limit: b"536870912\n",
    parse.cpu_max: b"150000 100000\n",
    parse.cpu_count: b"0-3,8,10-11\n",
    parse.process_ids: b"1\n4022\n40221\n",
    procfs.resident_bytes: b"620 224 202 5 0 97 0\n",
    procfs.start_ticks: STAT,
}

digits = st.integers(0, 2**70).map(lambda number: b"%d" % number)
keys = st.from_regex(rb"[a-z_]{1,20}", fullmatch=True)
devices = st.from_regex(rb"[0-9]{1,3}:[0-9]{1,5}", fullmatch=True)
texts = st.one_of(
    st.binary(max_size=200),
    st.text("0123456789 =-+_.:,\nmaxsomefulltotal\x00", max_size=60).map(str.encode),
    st.sampled_from(sorted(REAL.values())).flatmap(
        lambda real: st.tuples(st.integers(0, len(real)), st.binary(max_size=3)).map(
            lambda edit: real[: edit[0]] + edit[1] + real[edit[0] + len(edit[1]) :]
        )
    ),
)


def test_cpu_stat() -> None:
    assert parse.flat_keyed(CPU_STAT) == {
        b"usage_usec": b"5309234",
        b"user_usec": b"3101003",
        b"system_usec": b"2208231",
        b"nice_usec": b"0",
        b"nr_periods": b"40",
        b"nr_throttled": b"3",
        b"throttled_usec": b"123456",
        b"nr_bursts": b"0",
        b"burst_usec": b"0",
    }


def test_io_stat() -> None:
    stat = parse.nested_keyed(IO_STAT)
    assert list(stat) == [b"254:0", b"8:16"]
    assert stat[b"254:0"][b"wbytes"] == b"314773504"
    assert stat[b"8:16"] == {
        b"rbytes": b"90430464",
        b"wbytes": b"299008000",
        b"rios": b"8950",
        b"wios": b"1252",
        b"dbytes": b"50331648",
        b"dios": b"3021",
    }


def test_io_stat_of_nothing_yet() -> None:
    assert parse.nested_keyed(b"") == {}
    assert parse.nested_keyed(b"254:0 \n8:0 rbytes=1\n") == {
        b"254:0": {},
        b"8:0": {b"rbytes": b"1"},
    }


def test_io_stat_with_controllers_debugging() -> None:
    line = b"8:0 rbytes=7 wbytes=0 rios=1 wios=0 use_delay=0 depth=max cost.vrate=100.00 win=9\n"
    assert parse.nested_keyed(line)[b"8:0"] == {
        b"rbytes": b"7",
        b"wbytes": b"0",
        b"rios": b"1",
        b"wios": b"0",
        b"use_delay": b"0",
        b"win": b"9",
    }


@pytest.mark.parametrize(
    ("data", "totals"),
    [
        (PRESSURE, (b"58761", b"12")),
        (PRESSURE.splitlines(keepends=True)[0], (b"58761", None)),
        (PRESSURE.splitlines(keepends=True)[1], (None, b"12")),
    ],
)
def test_pressure(data: bytes, totals: tuple[bytes | None, bytes | None]) -> None:
    assert parse.pressure(data) == totals


@pytest.mark.parametrize(
    ("data", "cores"),
    [(b"max 100000\n", None), (b"150000 100000\n", 1.5), (b"1000 1000000\n", 0.001)],
)
def test_cpu_max(data: bytes, cores: float | None) -> None:
    assert parse.cpu_max(data) == cores


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"0\n", 1), (b"0-3\n", 4), (b"0-3,8,10-11\n", 7), (b"5-5\n", 1), (b"\n", None)],
)
def test_cpu_count(data: bytes, count: int | None) -> None:
    assert parse.cpu_count(data) == count


def test_limits() -> None:
    assert parse.limit(b"max\n") is None
    assert parse.limit(b"0\n") == 0
    assert parse.limit(b"18446744073709551615\n") == 2**64 - 1
    assert parse.number(b"9223372036854775808\n") == b"9223372036854775808"


def test_process_ids() -> None:
    assert parse.process_ids(b"") == ()
    assert parse.process_ids(b"1\n4022\n") == (1, 4022)
    assert parse.process_ids(b"0\n7\n") == (0, 7)


def test_statm_is_in_pages() -> None:
    assert procfs.resident_bytes(b"620 224 202 5 0 97 0\n") == 224 * procfs.PAGE_BYTES


def test_start_is_found_behind_any_command_name() -> None:
    assert procfs.start_ticks(STAT) == 81234


def test_health() -> None:
    health = parse_health(b"1 1767225600.5 10")
    assert (health.ready, health.time, health.interval) == (b"1", 1767225600.5, 10.0)


@pytest.mark.parametrize(
    ("parser", "data"),
    [
        (parse.flat_keyed, b""),
        (parse.flat_keyed, b"\n"),
        (parse.flat_keyed, b"usage_usec\n"),
        (parse.flat_keyed, b"usage_usec max\n"),
        (parse.flat_keyed, b"usage_usec 1 2\n"),
        (parse.nested_keyed, b"\n"),
        (parse.nested_keyed, b"8:0 rbytes\n"),
        (parse.nested_keyed, b"8:0 rbytes=\n"),
        (parse.nested_keyed, b"8:0 rbytes=x\n"),
        (parse.nested_keyed, b"8:0 rbytes=-1\n"),
        (parse.pressure, b""),
        (parse.pressure, b"\n"),
        (parse.pressure, b"some total=\nfull total=5\n"),
        (parse.pressure, b"some avg10=5\n"),
        (parse.number, b"\n"),
        (parse.number, b"max\n"),
        (parse.number, b"1_0\n"),
        (parse.number, b" 1\n"),
        (parse.limit, b"-1\n"),
        (parse.limit, b"maximal\n"),
        (parse.cpu_max, b"100000\n"),
        (parse.cpu_max, b"100000 0\n"),
        (parse.cpu_max, b"9" * 400 + b" 1\n"),
        (parse.cpu_count, b"3-0\n"),
        (parse.cpu_count, b"0-\n"),
        (parse.cpu_count, b"0,,1\n"),
        (parse.cpu_count, b"1_0-2_0\n"),
        (parse.process_ids, b"12"),
        (parse.process_ids, b"-5\n"),
        (parse.process_ids, b"1_0\n"),
        (procfs.resident_bytes, b""),
        (procfs.resident_bytes, b"1\n"),
        (procfs.start_ticks, b"1 (x) S\n"),
        (parse_health, b""),
        (parse_health, b"2 1767225600 10"),
        (parse_health, b"1 nan 10"),
        (parse_health, b"1 inf 10"),
        (parse_health, b"1 1767225600 nan"),
        (parse_health, b"1 1767225600 0"),
        (parse_health, b"1 1767225600 10 4"),
    ],
)
def test_what_makes_no_sense_is_refused(parser: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(ValueError):
        parser(data)


@given(st.dictionaries(keys, digits, min_size=1))
def test_flat_keyed_files_round_trip(figures: dict[bytes, bytes]) -> None:
    data = b"".join(b"%s %s\n" % item for item in figures.items())
    assert parse.flat_keyed(data) == figures


@given(st.dictionaries(devices, st.dictionaries(keys, digits)))
def test_nested_keyed_files_round_trip(figures: dict[bytes, dict[bytes, bytes]]) -> None:
    lines = [
        b"%s %s\n" % (device, b" ".join(b"%s=%s" % item for item in values.items()))
        for device, values in figures.items()
    ]
    assert parse.nested_keyed(b"".join(lines)) == figures


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_lists_round_trip(cpus: set[int]) -> None:
    assert parse.cpu_count(b",".join(b"%d" % cpu for cpu in sorted(cpus)) + b"\n") == len(cpus)


@given(st.integers(0, 2**70))
def test_seconds_are_exact(microseconds: int) -> None:
    text = parse.seconds(b"%d" % microseconds)
    assert re.fullmatch(rb"(0|[1-9]\d*)\.\d{6}", text)
    assert Decimal(text.decode()) == Decimal(microseconds).scaleb(-6)


@pytest.mark.parametrize("parser", REAL)
@given(data=texts)
def test_parsers_raise_nothing_but_value_error(
    parser: Callable[[bytes], object], data: bytes
) -> None:
    try:
        parser(data)
    except ValueError:
        return


@pytest.mark.parametrize("parser", [parse.number, parse.flat_keyed, parse.nested_keyed])
@given(data=texts)
def test_a_figure_stands_in_the_file_between_no_other_digits(
    parser: Callable[[bytes], object], data: bytes
) -> None:
    try:
        parsed = parser(data)
    except ValueError:
        return
    for figure in figures_of(parsed):
        assert re.search(rb"(?<!\d)" + figure + rb"(?!\d)", data)


@pytest.mark.parametrize("parser", REAL)
def test_a_file_cut_anywhere_gives_no_other_figures(parser: Callable[[bytes], object]) -> None:
    whole = REAL[parser]
    expected = parser(whole)
    for length in range(len(whole)):
        try:
            found = parser(whole[:length])
        except ValueError:
            continue
        assert is_part(found, expected), whole[:length]


def figures_of(parsed: Any) -> Iterator[bytes]:
    if isinstance(parsed, bytes):
        yield parsed
    elif isinstance(parsed, dict):
        for value in parsed.values():
            yield from figures_of(value)


def is_part(found: Any, expected: Any) -> bool:
    """Whether `found` says nothing that `expected` does not say."""
    if isinstance(found, dict):
        return all(key in expected and is_part(found[key], expected[key]) for key in found)
    if isinstance(found, tuple):
        return all(one is None or one in expected for one in found)
    return bool(found == expected)
