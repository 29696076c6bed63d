"""A pass over a whole fixture host: what is left out when something is wrong, and nothing else."""

import contextlib
import errno
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.golden.answers import HERE, raw_answers, systemd
from tests.trees import KernelManners, build

from worker_exporter.cgroup.procfs import PAGE_BYTES
from worker_exporter.collectors.base import REGISTRY, Moment
from worker_exporter.metrics.family import EXPORTER, FAMILIES
from worker_exporter.scrape import Scraper, Settings, default_collectors

SERVICE = "worker.slice/worker-llm.slice"
WORKER = f"{SERVICE}/worker-llm@8080.service"
LABELS = 'service="llm",instance="8080"'
CONTENTS = (b"", b"\n", b"what\n", b"12", b"what 9" + b"9" * 400, b"\xff\x00\n")

FILES = sorted(
    {
        file
        for family in FAMILIES
        for file in re.findall(r"(?:cpu|cpuset|memory|io|pids|cgroup)(?:\.\w+)+", family.source)
        if family.collector != EXPORTER
    }
)
"""The kernel files that the table of families names."""

EMPTY = {"io.stat": {b""}, "cgroup.procs": {b"", b"\n"}, "cpuset.cpus.effective": {b"\n"}}
"""What looks broken but is said by the kernel."""


class Running:
    """The host of the unified golden tree, and a scraper on it."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        self.cgroups = root / "cgroupfs"
        if not self.cgroups.exists():
            build((HERE / "unified.tree").read_text(), root)
        places = {"cgroupfs": str(self.cgroups), "procfs": f"{root}/proc", "sysfs": f"{root}/sys"}
        settings.setdefault("buses", {})
        self.scraper = Scraper(Settings(**{**places, **settings}))  # type: ignore[arg-type]

    def look(self, *collectors: str) -> list[str]:
        """The lines of samples."""
        selected = frozenset(collectors) or self.scraper.names
        text = self.scraper.scrape(selected).text().decode()
        return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(**settings: object) -> Running:
        made.append(Running(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.scraper.close()


def families(lines: list[str], labels: str = LABELS) -> set[str]:
    return {line.partition("{")[0] for line in lines if f"{{{labels}" in line}


def figure(lines: list[str], start: str) -> float:
    [value] = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == start]
    return float(value)


def from_file(file: str) -> set[str]:
    """The families that the table says come from a kernel file."""
    exact = re.compile(rf"(?<![\w.]){re.escape(file)}(?![\w.])")
    return {family.name for family in FAMILIES if exact.search(family.source)}


def test_the_files_are_those_of_the_contract() -> None:
    assert len(FILES) == 20
    assert {"cpu.stat", "memory.events", "io.pressure", "cgroup.procs"} <= set(FILES)


@pytest.mark.parametrize("before", [True, False], ids=["later", "from the start"])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        (file, content)
        for file in FILES
        for content in CONTENTS
        if content not in EMPTY.get(file, ())
    ],
)
def test_a_file_that_makes_no_sense_leaves_its_families_out_and_no_others(
    file: str, content: bytes, before: bool, running: Callable[..., Running]
) -> None:
    host = running()
    whole = families(host.look()) | (families(host.look()) if before else set())
    if not before:
        host.scraper.close()
    (host.cgroups / WORKER / file).write_bytes(content)
    host = host if before else running()
    lines = host.look()
    lines = lines if before else host.look()
    lost = whole - families(lines)
    assert lost == from_file(file) & whole - {"worker_info"}
    errors = f'worker_exporter_read_errors_total{{file="{file}"}}'
    assert figure(lines, errors) == (1 if before else 2)
    success = [line for line in lines if line.startswith("worker_exporter_collector_success")]
    assert len(success) == len(REGISTRY)
    assert all(line.endswith(" 1.0") for line in success)
    assert families(lines, 'service="batch",instance="7"')


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_refused_leaves_its_families_out(
    file: str, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = KernelManners(monkeypatch)
    host = running()
    host.look()
    whole = families(host.look())
    manners.refuse(host.cgroups / WORKER / file, errno.EACCES)
    lines = host.look()
    assert whole - families(lines) == from_file(file) & whole
    assert figure(lines, f'worker_exporter_read_errors_total{{file="{file}"}}') == 1
    manners.refusing.clear()
    host.look()
    assert families(host.look()) == whole


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_chosen_collector_tells_its_families_and_no_others(
    name: str, running: Callable[..., Running]
) -> None:
    host = running()
    host.look()
    lines = host.look(name)
    said = {re.split(r"[{ ]", line)[0] for line in lines}
    own = {family.name for family in FAMILIES if family.collector == EXPORTER}
    assert {each for each in said - own if not each.startswith("process_")} <= {
        family.name for family in FAMILIES if family.collector == name
    }
    assert [line for line in lines if "collector_success" in line] == [
        f'worker_exporter_collector_success{{collector="{name}"}} 1.0'
    ]
    assert ("worker_exporter_memory_source" in said) == (name == "memory")


def test_every_family_of_the_table_can_be_seen(
    tmp_path: Path, running: Callable[..., Running]
) -> None:
    with systemd("unified", tmp_path) as buses:
        host = running(buses=buses)
        build((HERE / "unified.then").read_text(), host.root)
        host.look()
        said = {re.split(r"[{ ]", line)[0] for line in host.look()}
    other = tmp_path / "gpu"
    other.mkdir()
    gpus = raw_answers("gpu", other)[".prom"].decode().splitlines()
    said |= {re.split(r"[{ ]", line)[0] for line in gpus}
    assert {family.name for family in FAMILIES} <= said


def test_a_collector_that_fails_is_left_out_and_made_anew(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = running()
    host.look()
    whole = families(host.look())
    broken = host.scraper._collectors["cpu"]

    def fail(now: Moment) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(broken, "collect", fail)
    lines = host.look()
    assert figure(lines, 'worker_exporter_collector_success{collector="cpu"}') == 0
    cpu = {family.name for family in FAMILIES if family.collector == "cpu"}
    assert families(lines) == whole - cpu
    assert host.scraper._collectors["cpu"] is not broken
    lines = host.look()
    assert figure(lines, 'worker_exporter_collector_success{collector="cpu"}') == 1
    assert families(lines) == whole - {"worker_cpu_pct"}


@pytest.mark.parametrize("above", ["", "worker.slice", SERVICE])
def test_a_controller_that_is_switched_on_above_is_seen(
    above: str, running: Callable[..., Running]
) -> None:
    host = running(slices=("worker.slice",))
    host.scraper.close()
    for path in (WORKER, SERVICE, "worker.slice"):
        (host.cgroups / path / "pids.max").unlink()
    host = running()
    assert "worker_tasks_limit" not in families(host.look())
    path = {"": "worker.slice", "worker.slice": SERVICE, SERVICE: WORKER}[above]
    (host.cgroups / path / "pids.max").write_text("9\n")
    (host.cgroups / above / "cgroup.subtree_control").write_text("pids\n")
    assert figure(host.look(), f"worker_tasks_limit{{{LABELS}}}") == 9


def test_the_node_is_told_as_a_whole_or_not_at_all(running: Callable[..., Running]) -> None:
    host = running()
    stat = (host.root / "proc/stat").read_bytes()
    for content in (b"", b"cpu 1 2\n", stat[:20], stat[:-1]):
        (host.root / "proc/stat").write_bytes(content)
        lines = host.look()
        assert figure(lines, 'worker_exporter_collector_success{collector="node"}') == 0
        assert not [line for line in lines if line.startswith("worker_node_")]
        assert families(lines)


def test_no_worker_is_no_error(running: Callable[..., Running]) -> None:
    lines = running(slices=("nobody.slice",)).look()
    assert figure(lines, "worker_exporter_workers") == 0
    assert not [line for line in lines if "service=" in line]


def test_processes_of_another_namespace_are_said_once(
    running: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    host = running()
    (host.cgroups / WORKER / "cgroup.procs").write_text("0\n5\n")
    caplog.set_level(logging.WARNING)
    host.look()
    host.look()
    assert len(caplog.records) == 1
    assert "--pid=host" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("file", "workers", "said"),
    [("cgroup.type", "nobody", 1), ("cgroup.type", "worker", 0), ("cgroup.stat", "nobody", 0)],
    ids=["a part", "a part with workers", "the whole"],
)
def test_a_part_of_the_cgroups_without_workers_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, workers: str, said: int
) -> None:
    """As in a container that has neither of the host's namespaces."""
    build((HERE / "unified.tree").read_text(), tmp_path)
    (tmp_path / "cgroupfs" / file).write_text("domain\n")
    (tmp_path / "proc/self").mkdir(exist_ok=True)
    mounted = f"30 27 0:26 / {tmp_path}/cgroupfs ro shared:9 - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(mounted)
    settings = Settings(
        procfs=f"{tmp_path}/proc", sysfs=f"{tmp_path}/sys", buses={}, slices=(f"{workers}.slice",)
    )
    caplog.set_level(logging.WARNING)
    with contextlib.closing(Scraper(settings)) as scraper:
        scraper.scrape(scraper.names)
        scraper.scrape(scraper.names)
    warnings = [each.getMessage() for each in caplog.records]
    assert sum("only a part" in each and "--cgroupns=host" in each for each in warnings) == said


def test_all_descriptors_are_given_back(running: Callable[..., Running]) -> None:
    host = running()
    descriptors = host.scraper._kernel.descriptors
    before = descriptors.available
    host.look()
    assert descriptors.available < before
    host.scraper.close()
    assert descriptors.available == before


def test_all_collectors_are_on_unless_a_flag_says_otherwise() -> None:
    assert default_collectors() == frozenset(REGISTRY)
    assert {family.collector for family in FAMILIES} == {*REGISTRY, EXPORTER}


def test_a_number_beyond_any_counter_stops_nobody_else(running: Callable[..., Running]) -> None:
    host = running()
    whole = families(host.look())
    nines = "9" * 400
    (host.cgroups / WORKER / "cpu.stat").write_text(f"usage_usec {nines}\nuser_usec 1\n")
    (host.cgroups / WORKER / "io.stat").write_text(f"254:0 rbytes={nines}\n")
    lines = host.look()
    assert families(lines) == whole - from_file("cpu.stat") - from_file("io.stat")
    assert not [line for line in lines if "collector_success" in line and line.endswith(" 0.0")]


def test_a_key_that_goes_takes_what_was_made_of_it_along(running: Callable[..., Running]) -> None:
    host = running()
    whole = families(host.look())
    stat = host.cgroups / WORKER / "memory.stat"
    stat.write_text("".join(line for line in lines_of(stat) if "inactive_file" not in line))
    assert whole - families(host.look()) == {"worker_memory_working_set_bytes"}


def test_resident_memory_without_memory_stat_is_that_of_the_processes(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = KernelManners(monkeypatch)
    host = running()
    (host.cgroups / WORKER / "cgroup.procs").write_text("4030\n")
    for nested in (host.cgroups / WORKER / "sub").iterdir():
        nested.write_text("")
    stat = host.cgroups / WORKER / "memory.stat"
    resident = f"worker_memory_rss_bytes{{{LABELS}}}"
    assert figure(host.look(), resident) == 524288000 + 20480000
    by_processes = 500 * PAGE_BYTES
    manners.refuse(stat, errno.EACCES)
    assert figure(host.look(), resident) == by_processes
    manners.refusing.clear()
    stat.unlink()
    assert figure(host.look(), resident) == by_processes
    assert figure(host.look(), 'worker_exporter_memory_source{source="proc"}') == 1


def test_minor_faults_do_not_fall_while_a_major_one_is_counted(
    running: Callable[..., Running],
) -> None:
    host = running()
    stat = host.cgroups / WORKER / "memory.stat"
    text = stat.read_text()
    minor = f'worker_memory_page_faults_total{{{LABELS},type="minor"}}'

    def counted(faults: int, major: int) -> float:
        changed = re.sub(r"(?m)^pgfault .*", f"pgfault {faults}", text)
        stat.write_text(re.sub(r"(?m)^pgmajfault .*", f"pgmajfault {major}", changed))
        return figure(host.look(), minor)

    assert counted(1000, 100) == 900
    assert counted(1000, 103) == 900
    assert counted(1003, 103) == 900
    assert counted(1004, 103) == 901
    assert counted(7, 5) == 2


def test_times_of_the_node_that_the_kernel_takes_back_do_not_fall(
    running: Callable[..., Running],
) -> None:
    host = running()

    def counted(user: int, idle: int, iowait: int) -> list[float]:
        text = f"cpu {user}00 0 0 {idle}00 {iowait}00 0 0 0 0 0\ncpu0 0\n"
        (host.root / "proc/stat").write_text(text)
        modes = ("user", "idle", "iowait")
        lines = host.look()
        return [figure(lines, f'worker_node_cpu_seconds_total{{mode="{each}"}}') for each in modes]

    assert counted(90, 80, 70) == [90, 80, 70]
    assert counted(91, 79, 60) == [91, 80, 70]
    assert counted(92, 81, 71) == [92, 81, 71]
    assert counted(1, 2, 3) == [1, 2, 3]


def test_a_directory_that_cannot_be_listed_holds_what_it_held(
    running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = running()
    host.look()  # what is smoothed needs two looks
    whole = host.look()
    errors = 'worker_exporter_read_errors_total{file="directory"}'
    assert figure(whole, errors) == 0

    def refuse(_: str) -> Iterator[object]:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("os.scandir", refuse)
        lines = host.look()
    assert figure(lines, errors) > 0
    assert families(lines) == families(whole)
    count = "worker_exporter_workers"
    assert figure(lines, count) == figure(whole, count) > 1


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)
