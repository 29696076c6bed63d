"""The figures of real cgroups against what the processes and the kernel say elsewhere."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.parsers import read_openmetrics
from tests.real.cgroup_support import Process, wait_for
from tests.support import remove_cgroup
from tests.tools import missing

from worker_exporter.collectors.base import Moment
from worker_exporter.scrape import Scraper, Settings

SLICE = f"cgrouptest{os.getpid()}.slice"
Figures = dict[tuple[str, str, str], float]


@pytest.fixture
def scraper(place: Path) -> Iterator[Scraper]:
    scraper = Scraper(Settings(slices=(SLICE,), buses={}))
    yield scraper
    scraper.close()


def look(scraper: Scraper) -> Figures:
    """Figures by family, worker, and the value of the further label."""
    answer = scraper.scrape(scraper.names).openmetrics().decode()
    figures: Figures = {}
    for family in read_openmetrics(answer):
        for sample in family.samples:
            labels = dict(sample.labels)
            worker = "/".join(labels.pop(name, "") for name in ("service", "instance"))
            further = "" if family.name == "worker_info" else "".join(labels.values())
            assert (sample.name, worker, further) not in figures
            figures[sample.name, worker, further] = sample.value
    return figures


def cpu(figures: Figures, worker: str) -> float:
    return sum(figures["worker_cpu_seconds_total", worker, mode] for mode in ("user", "system"))


def status(pid: int, key: str) -> int:
    """A size in /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def test_cpu_time_is_what_the_process_itself_says(
    scraper: Scraper, start: Callable[[str], Process]
) -> None:
    process = start("llm/8080")
    own, counted = process.tell("say"), cpu(look(scraper), "llm/8080")
    own_rise = process.tell("burn 1.5") - own
    assert own_rise >= 1.5
    assert cpu(look(scraper), "llm/8080") - counted == pytest.approx(own_rise, rel=0.05)


def test_resident_memory_is_what_the_process_holds(
    scraper: Scraper, start: Callable[[str], Process]
) -> None:
    process = start("llm/8080")
    process.tell(f"hold {64 << 20}")
    figures = look(scraper)
    if figures["worker_exporter_memory_source", "/", "proc"]:
        expected = status(process.pid, "VmRSS")
        assert figures["worker_memory_rss_bytes", "llm/8080", ""] == pytest.approx(expected, 0.01)
    else:
        expected = status(process.pid, "RssAnon")
        assert figures["worker_memory_anon_bytes", "llm/8080", ""] == pytest.approx(expected, 0.05)
    assert expected > 64 << 20


def test_processes_of_nested_cgroups_belong_to_the_worker(
    scraper: Scraper, start: Callable[[str], Process], place: Path
) -> None:
    (place / "llm/8080/inner/most").mkdir(parents=True)
    assert look(scraper)["worker_processes", "llm/8080", ""] == 0
    start("llm/8080/inner/most")
    assert look(scraper)["worker_processes", "llm/8080", ""] == 1
    start("llm/8080/another")
    figures = look(scraper)
    assert figures["worker_processes", "llm/8080", ""] == 2
    assert figures["worker_up", "llm/8080", ""] == 1
    remove_cgroup(str(place / "llm/8080/inner"))
    assert look(scraper)["worker_processes", "llm/8080", ""] == 1


@pytest.mark.parametrize("collector", ["health", "cpu", "memory", "io", "pressure"])
def test_a_worker_that_goes_in_mid_scrape_is_left_out_whole(
    scraper: Scraper,
    start: Callable[[str], Process],
    place: Path,
    collector: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start("llm/8080")
    start("llm/8081")
    look(scraper)
    before = look(scraper)
    interrupted = scraper._collectors[collector]
    collect = interrupted.collect

    def collect_after_removing(now: Moment) -> None:
        if (place / "llm/8080").exists():
            remove_cgroup(str(place / "llm/8080"))
        collect(now)

    monkeypatch.setattr(interrupted, "collect", collect_after_removing)
    after = look(scraper)
    left = {key for key in before if key[1] != "llm/8080"}
    assert {key for key in after if key[1] != "llm/8080"} == left
    assert [key for key in after if key[1] == "llm/8080"] == []
    assert after["worker_exporter_workers", "/", ""] == 1
    success = {key: value for key, value in after.items() if key[0].endswith("_success")}
    assert set(success.values()) == {1}


def test_a_worker_that_starts_again_under_its_name_begins_anew(
    scraper: Scraper, start: Callable[[str], Process], place: Path
) -> None:
    start("llm/8080").tell("burn 0.4")
    before = look(scraper)
    assert cpu(before, "llm/8080") >= 0.2
    remove_cgroup(str(place / "llm/8080"))
    start("llm/8080")
    after = look(scraper)
    assert cpu(after, "llm/8080") < 0.2
    assert {key for key in after if key[1] == "llm/8080"} <= before.keys()
    assert after["worker_processes", "llm/8080", ""] == 1


def test_frozen_workers(scraper: Scraper, start: Callable[[str], Process], place: Path) -> None:
    process = start("llm/8080")
    cgroup = place / "llm/8080"
    for frozen in (1, 0):
        (cgroup / "cgroup.freeze").write_text(str(frozen))
        wait_for(cgroup, f"frozen {frozen}")
        assert look(scraper)["worker_frozen", "llm/8080", ""] == frozen
    process.end()
    wait_for(cgroup, "populated 0")
    assert look(scraper)["worker_up", "llm/8080", ""] == 0


def test_pressure_switched_off_and_on_again(
    scraper: Scraper, start: Callable[[str], Process], place: Path
) -> None:
    start("llm/8080")
    switch = place / "llm/8080/cgroup.pressure"
    if not switch.exists():
        missing("cgroup.pressure (Linux 6.1 with PSI)")
    before = pressure(look(scraper))
    assert len(before) == 6
    for _ in range(2):
        switch.write_text("0")
        assert pressure(look(scraper)) == set()
        assert pressure(look(scraper)) == set()
        switch.write_text("1")
        assert pressure(look(scraper)) == before


def pressure(figures: Figures) -> set[tuple[str, str, str]]:
    return {key for key in figures if key[0].startswith("worker_pressure_")}


def test_metadata_and_health_are_attributes_of_the_cgroup(
    scraper: Scraper, start: Callable[[str], Process], place: Path
) -> None:
    (place / "llm/8080").mkdir(parents=True)
    os.setxattr(place / "llm/8080", "user.worker.started", b"1767225600.5")
    start("llm/8080")
    figures = look(scraper)
    assert figures["worker_start_time_seconds", "llm/8080", ""] == 1767225600.5
    assert ("worker_ready", "llm/8080", "") not in figures
    for ready in (1, 0):
        os.setxattr(place / "llm/8080", "user.worker.health", b"%d 1767225601 1e9" % ready)
        assert look(scraper)["worker_ready", "llm/8080", ""] == ready
    os.removexattr(place / "llm/8080", "user.worker.health")
    assert ("worker_ready", "llm/8080", "") not in look(scraper)


def test_the_start_is_that_of_the_oldest_process(
    scraper: Scraper, start: Callable[[str], Process]
) -> None:
    process = start("llm/8080")
    start("llm/8080")
    started = os.stat(f"/proc/{process.pid}").st_ctime
    found = look(scraper)["worker_start_time_seconds", "llm/8080", ""]
    assert found == pytest.approx(started, abs=2)
