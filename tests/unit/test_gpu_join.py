"""Whose processes hold a GPU: a stand-in says what drivers do, cgroups are those of a fixture."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.golden.answers import HERE
from tests.trees import build

from worker_exporter.gpu.device import Device, Process, Reading
from worker_exporter.scrape import Scraper, Settings

LLM = "worker.slice/worker-llm.slice/worker-llm@8080.service"
LLM_2 = "worker.slice/worker-llm.slice/worker-llm@8081.service"
GIB = 1 << 30
A = 'gpu="0",uuid="GPU-a"'
B = 'gpu="1",uuid="GPU-b"'
W = 'service="llm",instance="8080"'
W_2 = 'service="llm",instance="8081"'


class Drivers:
    """Stands where Gpus stands: `says` is the next reading."""

    def __init__(self) -> None:
        self.says: Reading | None = Reading()
        self.asked = 0

    def ask(self, patience: float) -> None:
        self.asked += 1

    def reading(self) -> Reading | None:
        return self.says

    def close(self) -> None:
        pass

    def have(self, *devices: Device, faults: tuple[str, ...] = ()) -> None:
        self.says = Reading(devices, faults)


class Host:
    """The host of the unified golden tree, with GPUs."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        build((HERE / "unified.tree").read_text(), root)
        self.root = root
        self.cgroups = root / "cgroupfs"
        self.drivers = Drivers()
        monkeypatch.setattr("worker_exporter.scrape.Gpus", lambda *_: self.drivers)
        self.scraper = Scraper(
            Settings(
                cgroupfs=str(self.cgroups),
                procfs=f"{root}/proc",
                sysfs=f"{root}/sys",
                buses={},
            )
        )
        self.success = -1.0

    def process(self, pid: int, path: str) -> None:
        """A process in the cgroup `path`; `path` may be any content."""
        content = path if path.startswith("\n") else f"1:name=systemd:/old\n0::/{path}\n"
        place = self.root / f"proc/{pid}"
        place.mkdir(exist_ok=True)
        (place / "cgroup").unlink(missing_ok=True)
        (place / "cgroup").write_text(content)

    def end(self, pid: int) -> None:
        (self.root / f"proc/{pid}/cgroup").unlink()

    def look(self, *collectors: str) -> dict[str, float]:
        """The samples of GPUs, without the prefix worker_."""
        text = self.scraper.scrape(frozenset(collectors) or self.scraper.names).text().decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        samples = {name: float(value) for name, _, value in lines}
        self.success = samples.get('worker_exporter_collector_success{collector="gpu"}', -1)
        return {
            name.removeprefix("worker_"): value
            for name, value in samples.items()
            if re.match("worker_(node_)?gpu_", name)
        }


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path, monkeypatch)
    yield made
    made.scraper.close()


def gpu(index: int, *processes: Process, **figures: object) -> Device:
    return Device(index, f"GPU-{chr(97 + index)}", processes=processes, **figures)  # type: ignore[arg-type]


def test_a_workers_memory_is_that_of_its_processes(host: Host) -> None:
    host.process(10, LLM)
    host.process(11, f"{LLM}/sub/deeper")
    host.process(12, LLM_2)
    host.drivers.have(
        gpu(0, Process(10, 2 * GIB, 0.25), Process(11, GIB, 0.5), Process(12, 5, 0.0)),
        gpu(1, Process(10, 7)),
    )
    samples = host.look()
    assert {name: value for name, value in samples.items() if "instance" in name} == {
        f"gpu_memory_used_bytes{{{W},{A}}}": 3 * GIB,
        f"gpu_memory_used_bytes{{{W},{B}}}": 7,
        f"gpu_memory_used_bytes{{{W_2},{A}}}": 5,
        f"gpu_utilization_ratio{{{W},{A}}}": 0.75,
        f"gpu_utilization_ratio{{{W_2},{A}}}": 0,
        f"gpu_processes{{{W},{A}}}": 2,
        f"gpu_processes{{{W},{B}}}": 1,
        f"gpu_processes{{{W_2},{A}}}": 1,
        f'gpu_process_memory_used_bytes{{{W},{A},pid="10"}}': 2 * GIB,
        f'gpu_process_memory_used_bytes{{{W},{A},pid="11"}}': GIB,
        f'gpu_process_memory_used_bytes{{{W},{B},pid="10"}}': 7,
        f'gpu_process_memory_used_bytes{{{W_2},{A},pid="12"}}': 5,
    }
    assert host.success == 1


def test_the_node_has_what_the_driver_says_and_nothing_else(host: Host) -> None:
    host.drivers.have(
        gpu(
            0,
            name="H100",
            driver="550.54",
            memory_used_bytes=3 * GIB,
            memory_total_bytes=80 * GIB,
            utilization_ratio=0.64,
            temperature_celsius=66.0,
            power_watts=123.456,
            energy_joules=789.5,
        ),
        gpu(1),
    )
    assert host.look() == {
        f'node_gpu_info{{{A},name="H100",driver="550.54"}}': 1,
        f"node_gpu_info{{{B}}}": 1,
        f"node_gpu_memory_used_bytes{{{A}}}": 3 * GIB,
        f"node_gpu_memory_total_bytes{{{A}}}": 80 * GIB,
        f"node_gpu_utilization_ratio{{{A}}}": 0.64,
        f"node_gpu_temperature_celsius{{{A}}}": 66,
        f"node_gpu_power_watts{{{A}}}": 123.456,
        f"node_gpu_energy_joules_total{{{A}}}": 789.5,
        f"node_gpu_unattributed_memory_bytes{{{A}}}": 0,
        f"node_gpu_unattributed_memory_bytes{{{B}}}": 0,
    }


def test_what_no_worker_holds_is_unattributed(host: Host) -> None:
    for pid, path in ((10, LLM), (11, "system.slice/x.service"), (12, ""), (13, "worker.slice")):
        host.process(pid, path)
    host.drivers.have(gpu(0, *(Process(10 + each, 1 << each) for each in range(4))))
    samples = host.look()
    assert samples[f"node_gpu_unattributed_memory_bytes{{{A}}}"] == 2 + 4 + 8
    assert samples[f"gpu_memory_used_bytes{{{W},{A}}}"] == 1


def test_parts_of_a_gpu_are_told_apart(host: Host) -> None:
    host.process(10, LLM)
    host.drivers.have(
        Device(0, "GPU-a", temperature_celsius=50.0, processes=None),
        Device(0, "MIG-1", "1/0", memory_used_bytes=9, processes=(Process(10, 4),)),
        Device(0, "MIG-2", "2/0", memory_used_bytes=0),
    )
    samples = host.look()
    one = 'gpu="0",uuid="MIG-1",mig="1/0"'
    assert samples[f"gpu_memory_used_bytes{{{W},{one}}}"] == 4
    assert samples[f'gpu_process_memory_used_bytes{{{W},{one},pid="10"}}'] == 4
    assert samples[f"node_gpu_unattributed_memory_bytes{{{one}}}"] == 0
    assert 'node_gpu_unattributed_memory_bytes{gpu="0",uuid="GPU-a"}' not in samples


@pytest.mark.parametrize("unknown", [Process(11), Process(11, None, 0.5)])
def test_part_of_a_sum_is_not_told(host: Host, unknown: Process) -> None:
    host.process(10, LLM)
    host.process(11, LLM)
    host.process(12, "x.slice")
    host.drivers.have(gpu(0, Process(10, 1, 0.5), unknown, Process(12)))
    samples = host.look()
    assert f"gpu_memory_used_bytes{{{W},{A}}}" not in samples
    assert f"node_gpu_unattributed_memory_bytes{{{A}}}" not in samples
    assert samples[f"gpu_processes{{{W},{A}}}"] == 2
    assert samples[f'gpu_process_memory_used_bytes{{{W},{A},pid="10"}}'] == 1
    told = f"gpu_utilization_ratio{{{W},{A}}}" in samples
    assert told == (unknown.utilization_ratio is not None)
    assert host.success == 1


def test_who_lets_go_of_a_gpu_has_no_samples_left(host: Host) -> None:
    host.process(10, LLM)
    host.process(11, LLM_2)
    host.drivers.have(gpu(0, Process(10, 1), Process(11, 2)), gpu(1, Process(10, 3)))
    host.look()
    host.drivers.have(gpu(0, Process(11, 2)))
    samples = host.look()
    assert not [name for name in samples if W in name or B in name]
    assert samples[f"gpu_memory_used_bytes{{{W_2},{A}}}"] == 2


def test_a_process_that_moves_takes_its_memory_along(host: Host) -> None:
    host.process(10, LLM)
    host.drivers.have(gpu(0, Process(10, 1)))
    host.look()
    place = host.root / "proc/10/cgroup"
    place.write_text(f"0::/{LLM_2}\n")
    samples = host.look()
    assert samples[f"gpu_memory_used_bytes{{{W_2},{A}}}"] == 1
    assert not [name for name in samples if W in name]


def test_a_pid_that_another_process_got_is_that_ones(host: Host) -> None:
    host.process(10, LLM)
    host.drivers.have(gpu(0, Process(10, 1)))
    host.look()
    host.end(10)
    host.process(10, "system.slice/x.service")
    # A fixture's descriptor outlives its file, as a real one does not.
    host.scraper._host.places.close()
    samples = host.look()
    assert samples[f"node_gpu_unattributed_memory_bytes{{{A}}}"] == 1


def test_a_worker_that_is_made_anew_has_its_processes(host: Host) -> None:
    host.process(10, LLM)
    host.drivers.have(gpu(0, Process(10, 1)))
    host.look()
    grave = host.root / "grave"
    (host.cgroups / LLM).rename(grave)
    (host.cgroups / "worker.slice/worker-z.slice").rename(host.root / "aside")
    samples = host.look()
    assert samples[f"node_gpu_unattributed_memory_bytes{{{A}}}"] == 1
    assert not [name for name in samples if W in name]
    grave.rename(host.cgroups / LLM)
    assert host.look()[f"gpu_memory_used_bytes{{{W},{A}}}"] == 1


def test_what_a_process_held_that_just_ended_is_unknown_and_that_is_no_fault(host: Host) -> None:
    host.process(10, LLM)
    unattributed = f"node_gpu_unattributed_memory_bytes{{{A}}}"
    host.drivers.have(gpu(0, Process(10, 1)))
    assert host.look()[unattributed] == 0
    for pid in (900, 901):
        host.drivers.have(gpu(0, Process(10, 1), Process(pid, 2)))
        samples = host.look()
        assert samples[f"gpu_memory_used_bytes{{{W},{A}}}"] == 1
        assert unattributed not in samples
        assert host.success == 1
    host.drivers.have(gpu(0, Process(10, 1)))
    assert host.look()[unattributed] == 0


def test_processes_that_proc_does_not_show_are_noticed_and_said_once(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.process(10, LLM)
    host.drivers.have(gpu(0, Process(10, 1), Process(900, 2)), gpu(1, Process(10, 4)))
    for _ in range(2):
        samples = host.look()
        assert samples[f"gpu_memory_used_bytes{{{W},{A}}}"] == 1
        assert f"node_gpu_unattributed_memory_bytes{{{A}}}" not in samples
        assert samples[f"node_gpu_unattributed_memory_bytes{{{B}}}"] == 0
        assert host.success == 0
    said = [record.getMessage() for record in caplog.records if "GPU" in record.getMessage()]
    assert len(said) == 1
    assert "--pid=host" in said[0] and "hidepid" in said[0]


@pytest.mark.parametrize("content", ["\n", "\nwhat\n", "\n1:name=x:/\n", "\n0::/cut"])
def test_a_place_that_makes_no_sense_is_nobodys(host: Host, content: str) -> None:
    host.process(10, content)
    host.drivers.have(gpu(0, Process(10, 1)))
    samples = host.look()
    assert not [name for name in samples if "instance" in name]


def test_a_cgroup_that_was_removed_under_a_process_still_counts(host: Host) -> None:
    host.process(10, f"{LLM} (deleted)")
    host.drivers.have(gpu(0, Process(10, 1)))
    assert host.look()[f"gpu_memory_used_bytes{{{W},{A}}}"] == 1


def test_without_an_answer_nothing_old_is_told(host: Host) -> None:
    host.process(10, LLM)
    host.drivers.have(gpu(0, Process(10, 1), temperature_celsius=3.0))
    whole = host.look()
    host.drivers.says = None
    assert host.look() == {}
    assert host.success == 0
    host.drivers.have(gpu(0, Process(10, 1), temperature_celsius=3.0))
    assert host.look() == whole
    assert host.success == 1


def test_a_fault_of_one_device_leaves_the_others_and_is_no_success(host: Host) -> None:
    host.process(10, LLM)
    host.drivers.have(gpu(1, Process(10, 1)), faults=("GPU 0 is lost",))
    assert host.look()[f"gpu_memory_used_bytes{{{W},{B}}}"] == 1
    assert host.success == 0


def test_without_any_gpu_there_is_nothing_and_no_fault(host: Host) -> None:
    assert host.look() == {}
    assert host.success == 1


def test_drivers_are_asked_only_for_a_pass_that_wants_them(host: Host) -> None:
    host.look("cpu")
    assert host.drivers.asked == 0
    host.look("gpu")
    assert host.drivers.asked == 1


def test_descriptors_of_processes_that_let_go_are_given_back(host: Host) -> None:
    host.look()
    before = host.scraper._kernel.descriptors.available
    for pid in range(10, 20):
        host.process(pid, LLM)
    host.drivers.have(gpu(0, *(Process(pid, 1) for pid in range(10, 20))))
    host.look()
    assert host.scraper._kernel.descriptors.available == before - 10
    host.drivers.have(gpu(0, Process(10, 1)))
    host.look()
    assert host.scraper._kernel.descriptors.available == before - 1
    host.scraper.close()
    assert host.scraper._kernel.descriptors.available > before
