"""From the exporter's text to the demo's table."""

import io

import pytest

from worker_sidecar.demo import figures
from worker_sidecar.demo.table import Screen, duration, render, size


def exposition(cpu: float, written: int) -> str:
    return f"""\
# TYPE worker_up gauge
worker_up{{service="llm",instance="8080"}} 1
worker_up{{service="idle",instance="1"}} 1
# TYPE worker_start_time_seconds gauge
worker_start_time_seconds{{service="llm",instance="8080"}} 1000
# TYPE worker_cpu_seconds_total counter
worker_cpu_seconds_total{{service="llm",instance="8080",mode="user"}} {cpu}
worker_cpu_seconds_total{{service="llm",instance="8080",mode="system"}} 1
# TYPE worker_memory_rss_bytes gauge
worker_memory_rss_bytes{{service="llm",instance="8080"}} 104857600
# TYPE worker_io_written_bytes_total counter
worker_io_written_bytes_total{{service="llm",instance="8080",device="vda"}} {written}
worker_io_written_bytes_total{{service="llm",instance="8080",device="vdb"}} 0
# TYPE worker_pressure_io_waiting_seconds_total counter
worker_pressure_io_waiting_seconds_total{{service="llm",instance="8080"}} {cpu / 4}
# TYPE worker_processes gauge
worker_processes{{service="llm",instance="8080"}} 2
# TYPE up gauge
up 1
"""


def test_rates_are_sums_over_labels_by_the_time_between_two_scrapes() -> None:
    before = figures.read(exposition(10.0, 0), at=50.0, now=2000.0)
    after = figures.read(exposition(11.0, 8 * 2**20), at=52.0, now=2002.0)
    idle, llm = figures.rows(before, after)
    assert (llm.service, llm.instance) == ("llm", "8080")
    assert llm.cpu_percent == 50.0
    assert llm.written_bytes == 4 * 2**20
    assert llm.waiting_io_percent == 12.5
    assert llm.rss_bytes == 104857600
    assert llm.processes == 2
    assert llm.uptime_seconds == 1002
    assert llm.read_bytes is None
    assert (idle.service, idle.cpu_percent, idle.rss_bytes) == ("idle", None, None)


def test_a_first_scrape_and_a_counter_that_fell_have_no_rate() -> None:
    first = figures.read(exposition(10.0, 5), at=50.0, now=2000.0)
    again = figures.read(exposition(1.0, 5), at=52.0, now=2002.0)
    assert [row.cpu_percent for row in figures.rows(None, first)] == [None, None]
    assert [row.cpu_percent for row in figures.rows(first, again)] == [None, None]


def test_the_table() -> None:
    before = figures.read(exposition(10.0, 0), at=50.0, now=2000.0)
    after = figures.read(exposition(11.0, 8 * 2**20), at=52.0, now=2002.0)
    assert render(figures.rows(before, after), "Workers") == [
        "Workers; WAITING: % of time held up by cpu/memory/io",
        "SERVICE  INSTANCE  CPU %      RSS   READ/s  WRITE/s    WAITING  PROCS      UP",
        "idle     1             -        -        -        -      -/-/-      -       -",
        "llm      8080       50.0  100 MiB        -  4.0 MiB     -/-/12      2  16m42s",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_redrawn_in_place_and_a_file_appended() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        screen = Screen(stream)
        screen.show(["a", "b"])
        screen.show(["c", "d"])
    assert terminal.getvalue() == "a\nb\n\x1b[2F\x1b[Jc\nd\n"
    assert file.getvalue() == "a\nb\n\nc\nd\n\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (10 * 2**20, "10 MiB"),
     (9.97 * 2**20, "10 MiB"), (1.5 * 2**30, "1.5 GiB"), (5e15, "4547.5 TiB")],
)  # fmt: skip
def test_sizes(count: float | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-1, "0s"), (59.9, "59s"), (187, "3m07s"), (7500, "2h05m"), (385200, "4d11h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
