"""NVIDIA's devices through the real binding, which calls a stand-in for the driver's library."""

import ctypes
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pynvml  # type: ignore[import-untyped]
import pytest
from tests.nvml.standin import GIB, MIB, Standin, divided_gpu, gpu, library, part

from worker_exporter.gpu.device import Device, Process
from worker_exporter.gpu.nvml import AbsentError, FailedError, Nvidia

PERMISSION = 4
LOST = 15
UNKNOWN = 999
NOT_AVAILABLE = 0xFFFFFFFFFFFFFFFF

Load = Callable[[str], Standin]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Makes a variant of the stand-in the library of this process."""
    loaded: list[Any] = []

    def load(variant: str) -> Standin:
        standin = Standin(tmp_path, variant)
        for name, value in standin.environment.items():
            monkeypatch.setenv(name, value)
        path = f"{library(variant)}/libnvidia-ml.so.1"
        loaded.append(ctypes.CDLL(path))
        monkeypatch.setattr(pynvml, "nvmlLib", loaded[-1])
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        standin.is_now("driver 550.54.15", gpu(0))
        return standin

    yield load
    Standin(tmp_path).is_now("driver none")
    for each in loaded:
        while each.nvmlShutdown() == 0:
            pass


@pytest.fixture
def standin(load: Load) -> Standin:
    return load("")


def look(nvidia: Nvidia) -> list[Device]:
    """All devices of a look without faults."""
    devices, faults = nvidia.devices()
    assert faults == []
    return devices


def processes(nvidia: Nvidia) -> tuple[Process, ...] | None:
    """The processes of the first device."""
    return look(nvidia)[0].processes


def test_a_device_is_what_the_driver_says(standin: Standin) -> None:
    standin.is_now("driver 550.54.15", gpu(0, compute={10: 3 * GIB}), gpu(1, total=7, used=5))
    assert look(Nvidia()) == [
        Device(
            index=0,
            uuid="GPU-00000000",
            name="NVIDIA H100 80GB HBM3",
            driver="550.54.15",
            memory_used_bytes=10 * GIB,
            memory_total_bytes=80 * GIB,
            utilization_ratio=0.64,
            temperature_celsius=66.0,
            power_watts=123.456,
            energy_joules=789.0,
            processes=(Process(10, 3 * GIB, 0.0),),
        ),
        Device(
            index=1,
            uuid="GPU-00000001",
            name="NVIDIA H100 80GB HBM3",
            driver="550.54.15",
            memory_used_bytes=5,
            memory_total_bytes=7,
            utilization_ratio=0.64,
            temperature_celsius=66.0,
            power_watts=123.456,
            energy_joules=789.0,
            processes=(),
        ),
    ]


def test_what_a_device_does_not_support_is_none_and_no_fault(standin: Standin) -> None:
    standin.is_now("gpu", "uuid GPU-a")
    assert look(Nvidia()) == [Device(0, "GPU-a", processes=())]


def test_a_device_that_knows_of_no_processes_has_none(standin: Standin) -> None:
    lists = ("Compute", "Graphics", "MPSCompute")
    refused = [f"return nvmlDeviceGet{each}RunningProcesses_v3 3" for each in lists]
    standin.is_now("gpu", "uuid GPU-a", *refused)
    assert processes(Nvidia()) is None
    standin.is_now("gpu", "uuid GPU-a", *refused[1:], "compute 1 2")
    assert processes(Nvidia()) == (Process(1, 2),)


@pytest.mark.parametrize("function", ["nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"])
def test_what_is_no_text_is_no_host_without_gpus(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def garbled() -> str:
        return b"\xff".decode()

    standin.is_now(gpu(0))
    nvidia = Nvidia()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(pynvml, function, garbled)
        for _ in range(2):
            if function == "nvmlDeviceGetCount":
                with pytest.raises(UnicodeDecodeError):
                    nvidia.devices()
            else:
                assert len(nvidia.devices()[0]) == 1
    assert len(nvidia.devices()[0]) == 1


def test_a_device_without_a_driver_version_is_shown(standin: Standin) -> None:
    standin.is_now("driver x", "return nvmlSystemGetDriverVersion 999", gpu(0))
    assert [device.driver for device in look(Nvidia())] == [""]


@pytest.mark.parametrize(
    ("lines", "bytes_held"),
    [
        (["compute 7 100", "graphics 7 100"], 100),
        (["compute 7 100", "graphics 7 300"], 300),
        (["compute 7 300", "graphics 7 100"], 300),
        (["compute 7 100", "graphics 7 -"], 100),
        (["compute 7 -", "graphics 7 100"], 100),
        (["compute 7 -", "graphics 7 -"], None),
        (["mps 7 100"], 100),
        (["mps 7 100", "compute 7 0"], 100),
        (["compute 7 0"], 0),
        (["compute 7 1000"], 1000),
        (["compute 7 1001"], None),
        ([f"compute 7 {0xFFFFFFFF}"], None),
        ([f"compute 7 {NOT_AVAILABLE - 1}"], None),
        (["compute 7 5", "compute 7 6"], 6),
        (["compute 0 5", "compute 7 6", "graphics 0 0"], 6),
    ],
)
def test_each_pid_is_there_once(standin: Standin, lines: list[str], bytes_held: int) -> None:
    standin.is_now("gpu", "uuid GPU-a", "memory 1000 1 1", *lines)
    assert processes(Nvidia()) == (Process(7, bytes_held),)


def test_without_a_total_impossible_figures_are_still_none(standin: Standin) -> None:
    standin.is_now("gpu", "uuid GPU-a", "compute 7 -", f"compute 8 {2**40}", f"compute 9 {2**63}")
    assert processes(Nvidia()) == (Process(7), Process(8, 2**40), Process(9))


def test_thousands_of_processes(standin: Standin) -> None:
    held = {pid: pid * MIB for pid in range(1, 4097)}
    standin.is_now(gpu(0, total=1 << 45, compute=held))
    nvidia = Nvidia()
    for _ in range(2):
        found = processes(nvidia)
        assert found is not None
        assert {each.pid: each.memory_used_bytes for each in found} == held


@pytest.mark.parametrize("variant", ["OLD", "LONG"])
def test_libraries_of_other_times_tell_the_same_processes(load: Load, variant: str) -> None:
    standin = load(variant)
    held = {pid: pid * MIB for pid in range(1, 301)}
    standin.is_now(gpu(0, "graphics 1 5", "graphics 999 7", "mps 2 1", compute=held))
    found = processes(Nvidia())
    assert found is not None
    assert {each.pid: each.memory_used_bytes for each in found} == held | {999: 7}


def test_an_old_library_lacks_what_is_newer_and_counts_the_reserve_as_used(load: Load) -> None:
    load("OLD").is_now(gpu(0, compute={1: 5}))
    [device] = look(Nvidia())
    assert device.memory_used_bytes == 10 * GIB + 512 * MIB
    assert device.memory_total_bytes == 80 * GIB
    assert (device.temperature_celsius, device.power_watts) == (66.0, 123.456)
    assert device.energy_joules is None
    assert device.processes == (Process(1, 5, None),)


def test_a_library_without_the_older_temperature_has_the_newer_one(standin: Standin) -> None:
    knows_it = hasattr(pynvml, "nvmlDeviceGetTemperatureV")  # the oldest binding allowed does not
    for absent in (13, 26):
        standin.is_now(gpu(0, f"return nvmlDeviceGetTemperature {absent}"))
        assert look(Nvidia())[0].temperature_celsius == (66.0 if knows_it else None)


def test_utilization_is_each_process_newest_sample(standin: Standin) -> None:
    samples = ("sample 1 now-0.9 10", "sample 1 now-0.3 30", "sample 1 now-0.6 20")
    standin.is_now(gpu(0, *samples, "sample 2 now-0.5 100", compute={1: 5, 2: 6, 3: 7}))
    assert processes(Nvidia()) == (Process(1, 5, 0.3), Process(2, 6, 1.0), Process(3, 7, 0.0))


def test_a_sample_of_a_process_without_memory_is_of_nobody(standin: Standin) -> None:
    standin.is_now(gpu(0, "sample 9 now-0.1 10", compute={1: 5}))
    assert processes(Nvidia()) == (Process(1, 5, 0.0),)


def test_a_sample_is_of_the_time_since_the_last_look(standin: Standin) -> None:
    nvidia = Nvidia()
    now = time.time_ns() // 1000
    old, new = f"sample 1 {now - 3_000_000} 10", f"sample 1 {now - 2_000_000} 20"
    standin.is_now(gpu(0, old, compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.0),), "older than the first look goes back"

    recent = f"sample 1 {now} 30"
    standin.is_now(gpu(0, old, recent, compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.3),)
    assert processes(nvidia) == (Process(1, 5, 0.3),), "two looks in one period of the driver"
    standin.is_now(gpu(0, old, new, compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.0),)


def test_what_happened_between_two_distant_looks_is_seen(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia = Nvidia()
    begin = time.time_ns()
    standin.is_now(gpu(0, f"sample 1 {begin // 1000} 30", compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.3),)
    monkeypatch.setattr(time, "time_ns", lambda: begin + 60 * 10**9)
    between = f"sample 1 {begin // 1000 + 20_000_000} 77"
    standin.is_now(gpu(0, between, compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.77),)
    assert processes(nvidia) == (Process(1, 5, 0.0),)


def test_what_was_used_after_an_idle_look_is_seen(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia = Nvidia()
    begin = time.time_ns()
    standin.is_now(gpu(0, compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.0),)
    monkeypatch.setattr(time, "time_ns", lambda: begin + 15 * 10**9)
    standin.is_now(gpu(0, f"sample 1 {begin // 1000 + 5_000_000} 77", compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.77),)


@pytest.mark.parametrize(("held", "since"), [({1: 5}, 599), ({}, 614)])
def test_nvml_is_not_asked_for_the_time_before_the_last_look(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, held: Mapping[int, int], since: int
) -> None:
    """Its figures are means: an idle time in them would make them too small."""
    asked: list[float] = []
    function = pynvml._nvmlGetFunctionPointer

    def noted(name: str) -> Any:
        ask = function(name)
        if name != "nvmlDeviceGetProcessUtilization":
            return ask

        def answer(*arguments: Any) -> Any:
            asked.append(arguments[-1].value / 10**6 - begin / 10**9)
            return ask(*arguments)

        return answer

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", noted)
    nvidia = Nvidia()
    begin = time.time_ns()
    for after, holds in ((0, {1: 5}), (600, held), (615, {1: 5})):
        monkeypatch.setattr(time, "time_ns", lambda at=after: begin + at * 10**9)
        standin.is_now(gpu(0, f"sample 1 {begin // 1000} 30", compute=holds))
        processes(nvidia)
    assert asked[-1] == pytest.approx(since, abs=0.01)


def test_a_clock_that_was_set_back_does_not_hide_samples(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia = Nvidia()
    begin = time.time_ns()
    standin.is_now(gpu(0, f"sample 1 {begin // 1000} 30", compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.3),)
    monkeypatch.setattr(time, "time_ns", lambda: begin - 3600 * 10**9)
    standin.is_now(gpu(0, f"sample 1 {begin // 1000 - 3600_000_000} 40", compute={1: 5}))
    assert processes(nvidia) == (Process(1, 5, 0.4),)


@pytest.mark.parametrize(
    ("lines", "ratio"),
    [
        (["sample 1 now-0.1 101"], None),
        (["sample 1 now-0.1 4294967295"], None),
        (["sample 1 now-0.1 101", "sample 1 now-0.2 20"], 0.2),
        (["sample 1 now-0.1 20", "sample 1 now-0.1 101"], 0.2),
        (["sample 0 now-0.1 50", "sample 0 0 0"], 0.0),
        (["stale", "sample 1 now-99 50"], None),
        (["stale", "sample 1 now-99 50", "sample 1 now-0.1 7"], 0.07),
    ],
)
def test_samples_that_cannot_be_true_are_not_believed(
    standin: Standin, lines: list[str], ratio: float | None
) -> None:
    standin.is_now(gpu(0, *lines, compute={1: 5}))
    assert processes(Nvidia()) == (Process(1, 5, ratio),)


def test_a_count_of_samples_that_cannot_be_true_is_said(standin: Standin) -> None:
    standin.is_now(
        gpu(
            0,
            "sample 1 now-0.1 50",
            "count nvmlDeviceGetProcessUtilization 4000000",
            compute={1: 5},
        )
    )
    devices, faults = Nvidia().devices()
    assert devices[0].processes == (Process(1, 5, None),)
    assert faults == [
        "NVIDIA GPU 0 (GPU-00000000): process utilization: NVML says that it wrote more entries"
        " than there was room for; see nvidia-smi"
    ]


def test_a_process_may_come_while_samples_are_counted(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["sample 1 now-0.1 50", "sample 2 now-0.1 20"]
    standin.is_now(gpu(0, lines[0], compute={1: 5, 2: 6}))
    function = pynvml._nvmlGetFunctionPointer

    def counted_too_early(name: str) -> Any:
        ask = function(name)
        if name != "nvmlDeviceGetProcessUtilization":
            return ask

        def answer(handle: Any, samples: Any, count: Any, since: Any) -> Any:
            code = ask(handle, samples, count, since)
            standin.is_now(gpu(0, *lines, compute={1: 5, 2: 6}))
            return code

        return answer

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", counted_too_early)
    assert processes(Nvidia()) == (Process(1, 5, 0.5), Process(2, 6, 0.2))


def test_a_count_that_is_another_one_each_time_is_the_same_fault(standin: Standin) -> None:
    nvidia = Nvidia()
    faults = set()
    for count in (129, 4000):
        counted = f"count nvmlDeviceGetComputeRunningProcesses_v3 {count}"
        standin.is_now(gpu(0, counted, compute={1: 5}))
        faults.update(nvidia.devices()[1])
    assert len(faults) == 1


def test_a_count_of_processes_that_cannot_be_true_is_said(standin: Standin) -> None:
    counted = "count nvmlDeviceGetComputeRunningProcesses_v3 129"
    standin.is_now(gpu(0, counted, compute={1: 5}), gpu(1, compute={2: 6}))
    devices, faults = Nvidia().devices()
    assert [device.processes for device in devices] == [None, (Process(2, 6, 0.0),)]
    assert faults == [
        "NVIDIA GPU 0 (GPU-00000000): processes: NVML says that it wrote more entries than there"
        " was room for; see nvidia-smi"
    ]


def test_a_list_of_processes_without_end_is_given_up(standin: Standin) -> None:
    standin.is_now(gpu(0, "return nvmlDeviceGetGraphicsRunningProcesses_v3 7"))
    for _ in range(2):
        devices, faults = Nvidia().devices()
        assert devices[0].processes is None
        assert "processes: NVML has more than 65536 processes" in faults[0]


def test_parts_of_a_divided_gpu_are_devices_and_nothing_is_there_twice(standin: Standin) -> None:
    parts = (part(1, 0, "compute 7 5", used=3), part(9, 0, "compute 8 -", "mps 9 6", total=77))
    standin.is_now("driver 1", gpu(0), divided_gpu(1, *parts))
    _, whole, first, second = look(Nvidia())
    assert whole == Device(
        index=1,
        uuid="GPU-00000001",
        name="NVIDIA H100 80GB HBM3",
        driver="1",
        temperature_celsius=66.0,
        power_watts=123.456,
        energy_joules=789.0,
        processes=None,
    )
    assert first == Device(
        index=1,
        uuid="MIG-1-0",
        mig="1/0",
        name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        driver="1",
        memory_used_bytes=3,
        memory_total_bytes=10 * GIB,
        processes=(Process(7, 5),),
    )
    assert second.uuid == "MIG-9-0"
    assert second.processes == (Process(8), Process(9, 6))


def test_a_divided_gpu_without_parts_is_one_device(standin: Standin) -> None:
    standin.is_now(divided_gpu(0))
    assert [device.processes for device in look(Nvidia())] == [None]


def test_parts_come_and_go(standin: Standin) -> None:
    nvidia = Nvidia()
    standin.is_now(gpu(0))
    assert [device.uuid for device in look(nvidia)] == ["GPU-00000000"]
    standin.is_now(divided_gpu(0, part(1), part(2)))
    assert [device.mig for device in look(nvidia)] == ["", "1/0", "2/0"]
    standin.is_now(divided_gpu(0, part(3)))
    assert [device.mig for device in look(nvidia)] == ["", "3/0"]


def test_memory_that_compute_instances_share_is_the_first_ones(standin: Standin) -> None:
    parts = (part(1, 0, "compute 7 5"), part(1, 1, "compute 8 6"), part(2, 0, "compute 9 1"))
    standin.is_now(divided_gpu(0, *parts))
    devices = look(Nvidia())[1:]
    assert [device.mig for device in devices] == ["1/0", "1/1", "2/0"]
    assert [device.memory_used_bytes for device in devices] == [GIB, None, GIB]
    assert [device.memory_total_bytes for device in devices] == [10 * GIB, None, 10 * GIB]
    assert [device.processes for device in devices] == [
        (Process(7, 5),),
        (Process(8, 6),),
        (Process(9, 1),),
    ]


def test_a_process_of_another_part_is_not_there_twice(standin: Standin) -> None:
    both = ("compute 7 5 1 0", "compute 8 6 1 1", f"compute 9 7 {0xFFFFFFFF} {0xFFFFFFFF}")
    standin.is_now(divided_gpu(0, part(1, 0, *both[:2]), part(1, 1, *both)))
    assert [device.processes for device in look(Nvidia())[1:]] == [
        (Process(7, 5),),
        (Process(8, 6), Process(9, 7)),
    ]


def test_a_part_that_fails_is_left_out_alone(standin: Standin) -> None:
    broken = part(1, 0, "return nvmlDeviceGetUUID 999")
    standin.is_now(divided_gpu(0, broken, part(2)))
    devices, faults = Nvidia().devices()
    assert [device.mig for device in devices] == ["", "2/0"]
    assert faults == [
        "NVIDIA GPU 0 (GPU-00000000): MIG device 0 is left out: Unknown Error; see nvidia-smi"
    ]


def test_what_is_not_permitted_is_none_and_said_in_one_line(standin: Standin) -> None:
    refused = ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetTotalEnergyConsumption")
    lines = [f"return {function} {PERMISSION}" for function in refused]
    standin.is_now(gpu(0, *lines, compute={1: 5}), gpu(1))
    devices, faults = Nvidia().devices()
    assert (devices[0].power_watts, devices[0].energy_joules) == (None, None)
    assert devices[0].processes == (Process(1, 5, 0.0),)
    assert devices[1].power_watts == 123.456
    assert faults == [
        "NVIDIA GPU 0 (GPU-00000000): power, energy: Insufficient Permissions; see nvidia-smi"
    ]


FIGURES = {
    "nvmlDeviceGetMemoryInfo_v2": "memory_used_bytes",
    "nvmlDeviceGetUtilizationRates": "utilization_ratio",
    "nvmlDeviceGetTemperature": "temperature_celsius",
    "nvmlDeviceGetPowerUsage": "power_watts",
    "nvmlDeviceGetTotalEnergyConsumption": "energy_joules",
    "nvmlDeviceGetComputeRunningProcesses_v3": "processes",
    "nvmlDeviceGetGraphicsRunningProcesses_v3": "processes",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": "processes",
}


@pytest.mark.parametrize("function", FIGURES)
@pytest.mark.parametrize("code", [PERMISSION, UNKNOWN, 77])
def test_a_figure_that_fails_is_missing_alone(standin: Standin, function: str, code: int) -> None:
    nvidia = Nvidia()
    standin.is_now("driver 1", gpu(0, compute={1: 5}))
    [whole] = look(nvidia)
    standin.is_now("driver 1", gpu(0, f"return {function} {code}", compute={1: 5}))
    devices, faults = nvidia.devices()
    missing: dict[str, Any] = {FIGURES[function]: None}
    if "Memory" in function:
        missing["memory_total_bytes"] = None
    assert devices == [dataclasses.replace(whole, **missing)]
    assert len(faults) == 1


@pytest.mark.parametrize(
    "function",
    ["nvmlDeviceGetMigMode", "nvmlDeviceGetProcessUtilization", *FIGURES],
)
def test_a_lost_gpu_is_left_out_until_it_is_back(standin: Standin, function: str) -> None:
    nvidia = Nvidia()
    well = gpu(0, compute={1: 5}), gpu(1, compute={2: 6})
    standin.is_now(*well)
    before = look(nvidia)
    standin.is_now(gpu(0, f"return {function} {LOST}", compute={1: 5}), well[1])
    devices, faults = nvidia.devices()
    assert devices == before[1:]
    assert faults == [
        "NVIDIA GPU 0 (GPU-00000000) is left out: GPU is lost; see nvidia-smi and dmesg"
    ]
    standin.is_now(*well)
    assert look(nvidia) == before


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID"])
def test_a_gpu_that_is_lost_from_the_start_is_found_later(standin: Standin, function: str) -> None:
    nvidia = Nvidia()
    standin.is_now(gpu(0), gpu(1, f"return {function} {LOST}"))
    devices, faults = nvidia.devices()
    assert [device.index for device in devices] == [0]
    assert faults == ["NVIDIA GPU 1 is left out: GPU is lost; see nvidia-smi and dmesg"]
    standin.is_now(gpu(0), gpu(1))
    assert [device.index for device in look(nvidia)] == [0, 1]


def test_a_lost_part_takes_its_gpu_along(standin: Standin) -> None:
    lost = part(2, 0, f"return nvmlDeviceGetUUID {LOST}")
    standin.is_now(divided_gpu(0, part(1), lost), gpu(1))
    devices, faults = Nvidia().devices()
    assert [device.index for device in devices] == [1]
    assert "GPU 0 (GPU-00000000) is left out: GPU is lost" in faults[0]


def test_nvml_is_initialised_once(standin: Standin) -> None:
    nvidia = Nvidia()
    for _ in range(3):
        look(nvidia)
    functions = [function for _, function in standin.calls]
    for once in ("nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetName"):
        assert functions.count(once) == 1
    assert functions.count("nvmlDeviceGetMemoryInfo_v2") == 3


def test_for_a_lost_gpu_nvml_is_initialised_anew_some_day(standin: Standin) -> None:
    clock = 0.0
    nvidia = Nvidia(lambda: clock)
    divided = divided_gpu(1, part(1), part(2))
    standin.is_now(gpu(0, f"return nvmlDeviceGetMigMode {LOST}"), divided)
    nvidia.devices()
    clock = 299.0
    nvidia.devices()
    assert [function for _, function in standin.calls].count("nvmlInitWithFlags") == 1
    clock = 301.0
    nvidia.devices()
    functions = [function for _, function in standin.calls]
    assert functions.count("nvmlInitWithFlags") == 2
    assert functions.count("nvmlShutdown") == 1
    standin.is_now(gpu(0))
    clock = 602.0
    look(nvidia)
    clock = 2000.0
    look(nvidia)
    assert [function for _, function in standin.calls].count("nvmlInitWithFlags") == 3


def test_a_first_gpu_is_found_some_day(standin: Standin) -> None:
    clock = 0.0
    nvidia = Nvidia(lambda: clock)
    standin.is_now("driver 1")
    assert look(nvidia) == []
    standin.is_now(gpu(0))
    assert look(nvidia) == []
    clock = 301.0
    assert len(look(nvidia)) == 1


@pytest.mark.parametrize(
    ("code", "text"), [(9, "Driver Not Loaded"), (12, "NVML Shared Library Not Found")]
)
def test_no_driver_is_absence(standin: Standin, code: int, text: str) -> None:
    nvidia = Nvidia()
    standin.is_now("driver 1", f"return nvmlInitWithFlags {code}", gpu(0))
    for _ in range(2):
        with pytest.raises(AbsentError, match=f"^{text}$"):
            nvidia.devices()
    standin.is_now(gpu(0))
    assert len(look(nvidia)) == 1


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
@pytest.mark.parametrize(
    ("code", "text"),
    [
        (UNKNOWN, "Unknown Error"),
        (PERMISSION, "Insufficient Permissions"),
        (18, "RM has detected an NVML/RM version mismatch."),
        (77, "Some Newer Error"),
    ],
)
def test_a_driver_that_fails_says_why_and_is_tried_again(
    standin: Standin, function: str, code: int, text: str
) -> None:
    nvidia = Nvidia()
    standin.is_now("driver 1", f"return {function} {code}", gpu(0))
    for _ in range(2):
        with pytest.raises(FailedError) as caught:
            nvidia.devices()
        assert str(caught.value) == text
    standin.is_now(gpu(0))
    assert len(look(nvidia)) == 1
    functions = [function for _, function in standin.calls]
    assert functions.count("nvmlInitWithFlags") == 3, "once each time"


@pytest.mark.parametrize("code", [1, 9, 18])
def test_a_driver_that_was_loaded_anew_is_initialised_anew(standin: Standin, code: int) -> None:
    nvidia = Nvidia()
    standin.is_now(gpu(0))
    look(nvidia)
    pynvml.nvmlShutdown()
    assert [device.uuid for device in look(nvidia)] == ["GPU-00000000"]

    standin.is_now(gpu(0, f"return nvmlDeviceGetPowerUsage {code}"))
    with pytest.raises((AbsentError, FailedError)):
        nvidia.devices()
    standin.is_now(gpu(0), gpu(1))
    assert [device.uuid for device in look(nvidia)] == ["GPU-00000000", "GPU-00000001"]


def test_a_driver_that_is_gone_is_absence(standin: Standin) -> None:
    nvidia = Nvidia()
    look(nvidia)
    standin.is_now("return nvmlInitWithFlags 9", "gpu", "return nvmlDeviceGetMigMode 1")
    with pytest.raises(AbsentError):
        nvidia.devices()


@pytest.mark.parametrize(
    ("lines", "figure"),
    [
        (["utilization 101"], "utilization_ratio"),
        (["power 4294967295"], "power_watts"),
        ([f"memory {NOT_AVAILABLE} 0 5"], "memory_total_bytes"),
        ([f"memory {NOT_AVAILABLE} 0 5"], "memory_used_bytes"),
        ([f"memory 100 0 {NOT_AVAILABLE}"], "memory_used_bytes"),
    ],
)
def test_figures_that_cannot_be_true_are_none(
    standin: Standin, lines: list[str], figure: str
) -> None:
    standin.is_now("gpu", "uuid GPU-a", *lines)
    assert getattr(look(Nvidia())[0], figure) is None


def test_a_name_in_no_encoding_is_left_out(standin: Standin, tmp_path: Path) -> None:
    scenario = tmp_path / "scenario"
    scenario.write_bytes(b"gpu\nuuid GPU-a\nname \xff\xfe\ngpu\nuuid \xff\n")
    devices, faults = Nvidia().devices()
    assert [(device.uuid, device.name) for device in devices] == [("GPU-a", "")]
    assert faults == ["NVIDIA GPU 1 is left out: Unknown Error; see nvidia-smi and dmesg"]
