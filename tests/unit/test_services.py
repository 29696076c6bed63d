"""Totals of services on a fixture host: what they sum, and when they are left out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.trees import KernelManners, build

from worker_exporter.cgroup.identity import manager_path
from worker_exporter.scrape import Scraper, Settings

SYSTEM = "worker.slice/worker-llm.slice"
MANAGER = manager_path(1000)
USERS = f"{MANAGER}/worker.slice/worker-llm.slice"
SLICE = """\
==> cgroupfs/{slice}/cpu.stat <==
usage_usec {usage}
user_usec {usage}
system_usec 250000
nr_periods {periods}
nr_throttled 2
throttled_usec 1500000

==> cgroupfs/{slice}/cpu.max <==
{quota} 100000

==> cgroupfs/{slice}/memory.current <==
{memory}

==> cgroupfs/{slice}/memory.max <==
{limit}

==> cgroupfs/{slice}/memory.events <==
low 0
high 1
max 2
oom 3
oom_kill {kills}
oom_group_kill 0

==> cgroupfs/{slice}/io.stat <==
254:0 rbytes={read} wbytes=20 rios=1 wios=2 dbytes=0 dios=0
"""
HOST = """\
==> sys/dev/block/254:0 -> ../../devices/vda <==
==> sys/devices/vda/slaves/ <==
==> proc/stat <==
cpu  1 2 3 4 5 6 7 8 9 10
cpu0 1 2 3 4 5 6 7 8 9 10
btime 1700000000

==> proc/meminfo <==
MemTotal:       16384 kB
MemAvailable:    8192 kB

==> cgroupfs/cgroup.subtree_control <==
cpu io memory
"""
FIGURES = {
    "usage": 1_500_000,
    "periods": 10,
    "quota": 150000,
    "memory": 1000,
    "limit": 5000,
    "kills": 4,
    "read": 10,
}


class Services:
    """A host with two managers, and the samples of services on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        build(HOST, root)
        self._scraper: Scraper | None = None
        self.success = 0.0

    def write(self, path: str, **figures: object) -> None:
        """Make the slice `path`, or write its files anew."""
        build(SLICE.format(slice=path, **{**FIGURES, **figures}), self.root)

    def remove(self, path: str) -> None:
        """Take the slice away, whole."""
        (self.root / "cgroupfs" / path).rename(self.root / f"grave-{path.count('/')}")

    def file(self, path: str) -> Path:
        return self.root / "cgroupfs" / path

    def look(self) -> dict[str, float]:
        """The samples of services, by name with the labels beside the service."""
        if self._scraper is None:
            places = {"procfs": f"{self.root}/proc", "sysfs": f"{self.root}/sys"}
            settings = Settings(cgroupfs=f"{self.root}/cgroupfs", buses={}, **places)  # type: ignore[arg-type]
            self._scraper = Scraper(settings)
        lines = self._scraper.scrape(frozenset({"services"})).text().decode().splitlines()
        [self.success] = [
            float(line.rpartition(" ")[2]) for line in lines if "collector_success{" in line
        ]
        told = [line.rpartition(" ") for line in lines if line.startswith("worker_service_")]
        return {
            name.removeprefix("worker_service_")
            .replace('{service="llm"}', "")
            .replace('service="llm",', ""): float(value)
            for name, _, value in told
            if 'service="llm"' in name
        }

    def close(self) -> None:
        if self._scraper is not None:
            self._scraper.close()


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr("os.getuid", lambda: 1000)
    made = Services(tmp_path)
    yield made
    made.close()


def test_every_figure_of_a_slice_without_any_worker(services: Services) -> None:
    services.write(SYSTEM)
    assert services.look() == {
        'cpu_seconds_total{mode="user"}': 1.5,
        'cpu_seconds_total{mode="system"}': 0.25,
        "cpu_periods_total": 10,
        "cpu_throttled_periods_total": 2,
        "cpu_throttled_seconds_total": 1.5,
        "cpu_limit_cores": 1.5,
        "memory_current_bytes": 1000,
        "memory_limit_bytes": 5000,
        'memory_events_total{event="high"}': 1,
        'memory_events_total{event="max"}': 2,
        'memory_events_total{event="oom"}': 3,
        'memory_events_total{event="oom_kill"}': 4,
        'memory_events_total{event="oom_group_kill"}': 0,
        'io_read_bytes_total{device="vda"}': 10,
        'io_written_bytes_total{device="vda"}': 20,
    }


def test_figures_follow_the_files(services: Services) -> None:
    services.write(SYSTEM)
    before = services.look()
    services.write(SYSTEM, usage=3_000_001, kills=5, limit="max", quota="max", read=11)
    after = services.look()
    assert after['cpu_seconds_total{mode="user"}'] == 3.000001
    assert after['memory_events_total{event="oom_kill"}'] == 5
    assert after['io_read_bytes_total{device="vda"}'] == 11
    assert before.keys() - after.keys() == {"memory_limit_bytes", "cpu_limit_cores"}


def test_the_limit_of_the_slice_above_counts_where_it_is_smaller(services: Services) -> None:
    services.write(SYSTEM)
    services.file("worker.slice/memory.max").write_text("4096\n")
    services.file("worker.slice/cpu.max").write_text("50000 100000\n")
    found = services.look()
    assert (found["memory_limit_bytes"], found["cpu_limit_cores"]) == (4096, 0.5)


def test_the_same_service_in_two_roots_is_summed(services: Services) -> None:
    services.write(SYSTEM)
    services.write(USERS, usage=100, periods=1, memory=7, limit=50, quota=50000, kills=1, read=3)
    found = services.look()
    assert found['cpu_seconds_total{mode="user"}'] == 1.5001
    assert found["cpu_periods_total"] == 11
    assert found["memory_current_bytes"] == 1007
    assert found["memory_limit_bytes"] == 5050
    assert found["cpu_limit_cores"] == 2
    assert found['memory_events_total{event="oom_kill"}'] == 5
    assert found['io_read_bytes_total{device="vda"}'] == 13


def test_a_sum_is_told_only_when_each_slice_has_its_part(services: Services) -> None:
    services.write(SYSTEM)
    services.write(USERS, limit="max")
    services.file(f"{USERS}/io.stat").unlink()
    found = services.look()
    assert "memory_limit_bytes" not in found
    assert "memory_current_bytes" in found
    assert not [name for name in found if name.startswith("io_")]


def test_a_counter_does_not_fall_when_one_of_two_slices_goes(services: Services) -> None:
    services.write(SYSTEM)
    services.write(USERS, usage=500_000, memory=7)
    services.look()
    services.remove(USERS)
    services.write(SYSTEM, usage=1_600_000)
    found = services.look()
    assert found['cpu_seconds_total{mode="user"}'] == 2.1
    assert found['io_read_bytes_total{device="vda"}'] == 20
    assert found["memory_current_bytes"] == 1000
    services.write(USERS, usage=1)
    assert services.look()['cpu_seconds_total{mode="user"}'] == 2.100001


def test_a_counter_does_not_fall_when_one_of_two_slices_goes_in_mid_scrape(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    KernelManners(monkeypatch)
    services.write(SYSTEM)
    services.write(USERS, usage=500_000)
    services.look()
    look = services._scraper._tree.refresh  # type: ignore[union-attr]

    def then_remove() -> object:
        found = look()
        services.remove(USERS)
        for file in services.root.glob("grave-*/*"):
            file.unlink()
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(services._scraper._tree, "refresh", then_remove)  # type: ignore[union-attr]
        services.look()
    found = services.look()
    assert found['cpu_seconds_total{mode="user"}'] == 2
    assert found['io_read_bytes_total{device="vda"}'] == 20


@pytest.mark.parametrize("anew", ["", "254:0 rbytes=4 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n"])
def test_a_counter_does_not_fall_when_one_of_two_slices_is_accounted_anew(
    services: Services, anew: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    KernelManners(monkeypatch)
    services.write(SYSTEM, read=1000)
    services.write(USERS, read=10)
    services.look()
    accounted = services.file(f"{USERS}/io.stat")
    control = services.file("cgroup.subtree_control")
    accounted.unlink()
    control.write_text("cpu memory\n")
    assert not [name for name in services.look() if name.startswith("io_")]
    accounted.write_text(anew)
    control.write_text("cpu io memory\n")
    counted = 4 if anew else 0
    assert services.look()['io_read_bytes_total{device="vda"}'] == 1010 + counted
    services.write(USERS, read=8)
    assert services.look()['io_read_bytes_total{device="vda"}'] == 1018


def test_a_counter_does_not_fall_when_the_one_that_is_left_counts_anew(services: Services) -> None:
    services.write(SYSTEM, read=1000)
    services.write(USERS, read=10)
    services.look()
    services.remove(USERS)
    services.look()
    services.write(SYSTEM, read=7)
    assert services.look()['io_read_bytes_total{device="vda"}'] == 1017


def test_a_renamed_disk_of_two_slices_is_counted_once(services: Services) -> None:
    services.write(SYSTEM)
    services.write(USERS)
    services.look()
    link = services.root / "sys/dev/block/254:0"
    link.unlink()
    link.symlink_to("../../devices/vdb")
    read = {name: value for name, value in services.look().items() if "io_read" in name}
    assert read == {'io_read_bytes_total{device="vdb"}': 20}


def test_a_slice_that_comes_back_as_it_was_counts_once(services: Services) -> None:
    services.write(SYSTEM)
    services.write(USERS, usage=500_000)
    services.look()
    services.remove(USERS)
    assert services.look()['cpu_seconds_total{mode="user"}'] == 2
    (services.root / f"grave-{USERS.count('/')}").rename(services.file(USERS))
    assert services.look()['cpu_seconds_total{mode="user"}'] == 2
    services.write(USERS, usage=600_000)
    assert services.look()['cpu_seconds_total{mode="user"}'] == 2.1


def test_with_its_last_slice_a_service_is_gone_and_starts_from_nothing(services: Services) -> None:
    services.write(SYSTEM)
    services.write(USERS)
    services.look()
    services.remove(USERS)
    services.remove(SYSTEM)
    assert services.look() == {}
    services.write(SYSTEM, usage=7)
    assert services.look()['cpu_seconds_total{mode="user"}'] == 7e-6


def test_a_slice_made_anew_under_its_name_starts_from_nothing(services: Services) -> None:
    services.write(SYSTEM)
    services.look()
    services.remove(SYSTEM)
    services.write(SYSTEM, usage=7)
    assert services.look()['cpu_seconds_total{mode="user"}'] == 7e-6


def test_accounting_that_is_switched_on_later_shows(services: Services) -> None:
    services.write(SYSTEM)
    kept = services.file(f"{SYSTEM}/io.stat").read_text()
    services.file(f"{SYSTEM}/io.stat").unlink()
    assert 'io_read_bytes_total{device="vda"}' not in services.look()
    services.file(f"{SYSTEM}/io.stat").write_text(kept)
    services.file("worker.slice/cgroup.subtree_control").write_text("io\n")
    services.file("cgroup.subtree_control").write_text("io\n")
    assert services.look()['io_read_bytes_total{device="vda"}'] == 10


def test_without_controllers_only_cpu_time_is_there(services: Services) -> None:
    services.file(SYSTEM).mkdir(parents=True)
    services.file(f"{SYSTEM}/cpu.stat").write_text("usage_usec 3\nuser_usec 1\nsystem_usec 2\n")
    assert services.look() == {
        'cpu_seconds_total{mode="user"}': 1e-6,
        'cpu_seconds_total{mode="system"}': 2e-6,
    }


@pytest.mark.parametrize("content", ["", "what\n", "user_usec x\n", "user_usec 1"])
def test_a_file_that_makes_no_sense_takes_only_its_families_along(
    services: Services, content: str
) -> None:
    services.write(SYSTEM)
    whole = services.look()
    services.file(f"{SYSTEM}/cpu.stat").write_text(content)
    lost = whole.keys() - services.look().keys()
    assert {name.partition("{")[0] for name in lost} == {
        "cpu_seconds_total",
        "cpu_periods_total",
        "cpu_throttled_periods_total",
        "cpu_throttled_seconds_total",
    }
    services.write(SYSTEM)
    assert services.look() == whole


def test_a_slice_that_vanishes_in_mid_scrape_is_left_out_whole(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    KernelManners(monkeypatch)
    services.write(SYSTEM)
    services.look()
    services.file(f"{SYSTEM}/io.stat").unlink()
    look = services._scraper._tree.refresh  # type: ignore[union-attr]

    def then_remove() -> object:
        found = look()
        services.remove(SYSTEM)
        for file in (services.root / "grave-1").iterdir():
            file.unlink()
        return found

    monkeypatch.setattr(services._scraper._tree, "refresh", then_remove)  # type: ignore[union-attr]
    assert services.look() == {}


def test_a_renamed_disk_is_told_by_its_new_name(services: Services) -> None:
    services.write(SYSTEM)
    services.look()
    link = services.root / "sys/dev/block/254:0"
    link.unlink()
    (services.root / "sys/devices/vdb/slaves").mkdir(parents=True)
    link.symlink_to("../../devices/vdb")
    found = services.look()
    assert found['io_read_bytes_total{device="vdb"}'] == 10
    assert 'io_read_bytes_total{device="vda"}' not in found


def test_a_slice_that_is_gone_has_no_say_when_cpus_come_and_go(services: Services) -> None:
    online = services.root / "sys/devices/system/cpu/online"
    online.parent.mkdir(parents=True)
    online.write_text("0-3\n")
    other = "worker.slice/worker-train.slice"
    for path in (SYSTEM, other):
        services.write(path, quota="max")
        services.file(f"{path}/cpuset.cpus.effective").write_text("0-1\n")
    assert services.look()["cpu_limit_cores"] == 2
    services.remove(other)
    online.write_text("0-1\n")
    assert "cpu_limit_cores" not in services.look()
    assert services.success == 1
