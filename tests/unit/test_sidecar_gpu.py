"""Which GPU a worker gets: a real process that asks a stand-in for the driver's library, and trees
of files for AMD's.
"""

import contextlib
import fcntl
import importlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nvml.standin import MIB, Standin
from tests.trees import build
from tests.unit.gpu_support import until

from worker_exporter.gpu.device import AMD
from worker_sidecar import gpu
from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.gpu import GpuState, NoDriverError, choose, inventory
from worker_sidecar.launch.launcher import Gpu

SOON = 0.5
"""Seconds until a driver that hangs for sure is given up."""

LONG = 60.0
"""Seconds until a test that goes wrong ends."""


class Host:
    """What the stand-in, and a tree in place of /sys, make of this host."""

    def __init__(self, directory: Path) -> None:
        self.standin = Standin(directory)
        self.sys = directory / "sys"
        self.lock = directory / "gpu.lock"
        self.calls = directory / "calls"

    def has(self, gpus: str, *more: str) -> None:
        """Give it NVIDIA's GPUs: "free/total[:migs]" in MiB for each, "lost" for one that does not
        answer, "-" for one that does not tell its memory.
        """
        each = enumerate(gpus.split())
        self.standin.is_now(*more, *(line for index, text in each for line in _nvidia(index, text)))

    def answers(self, how: str) -> None:
        """Let the driver answer so when it is initialised."""
        self.standin.is_now(how)

    def has_amd(self, bus: int, free: int, total: int, kfd: str = "") -> None:
        """Give it a GPU of AMD at this place of the bus, which kfd knows by these `properties`."""
        build(_amd(bus, free, total, kfd), self.sys)

    @property
    def asked(self) -> list[int]:
        """The processes that asked the driver."""
        return self.standin.pids if self.calls.is_file() else []


def _nvidia(index: int, text: str) -> Iterator[str]:
    yield from ("gpu", f"uuid GPU-{index:02}", "name Test GPU")
    memory, _, migs = text.partition(":")
    if memory == "lost":
        yield "return nvmlDeviceGetHandleByIndex_v2 15"
    elif "/" in memory:
        free, total = (int(number) * MIB for number in memory.split("/"))
        yield f"memory {total} 0 {total - free}"
        yield from ["mig"] if migs else []
        for part in range(int(migs or 0)):
            # The parts grow, so that the last one has most.
            yield from (f"mig {part + 1} 0", f"uuid MIG-{index:02}-{part}", "name Test GPU MIG 1g")
            yield f"memory {total} 0 {total - free - part * MIB}"


def _amd(bus: int, free: int, total: int, kfd: str) -> str:
    card = f"class/drm/card{bus}/device"
    node = f"class/kfd/kfd/topology/nodes/{bus}"
    known = (
        f"==> {node}/gpu_id <==\n{bus}\n==> {node}/properties <==\nlocation_id {bus << 8}\n{kfd}\n"
    )
    return (
        f"\n==> {card}/uevent <==\nDRIVER=amdgpu\nPCI_SLOT_NAME=0000:{bus:02x}:00.0\n"
        f"==> {card}/product_name <==\nTest Instinct\n"
        f"==> {card}/mem_info_vram_total <==\n{total * MIB}\n"
        f"==> {card}/mem_info_vram_used <==\n{(total - free) * MIB}\n"
        f"==> class/kfd/kfd/proc/ <==\n{known if kfd else ''}"
    )


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)
    for name, value in made.standin.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    module = importlib.import_module("worker_sidecar.gpu.inventory")
    monkeypatch.setattr(module, "SYSFS", str(made.sys))
    yield made
    for pid in made.asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_inventory_is_what_the_driver_says(host: Host) -> None:
    host.has("100/1000 lost -  300/400:2")
    assert inventory() == [
        GpuState(0, "GPU-00", "Test GPU", 100 * MIB, 1000 * MIB),
        GpuState(2, "GPU-02", "Test GPU", None, None),
        GpuState(3, "MIG-03-0", "Test GPU MIG 1g", 300 * MIB, 400 * MIB),
        GpuState(3, "MIG-03-1", "Test GPU MIG 1g", 301 * MIB, 400 * MIB),
    ]


@pytest.mark.parametrize(
    ("gpus", "wanted", "found"),
    [
        ("100/1000 900/1000 500/1000", "auto", [Gpu(1, "GPU-01")]),
        ("7/8", "auto", [Gpu(0, "GPU-00")]),
        ("- -", "auto", [Gpu(0, "GPU-00")]),
        ("- 5/9", "auto", [Gpu(1, "GPU-01")]),
        ("lost 5/9", "auto", [Gpu(1, "GPU-01")]),
        ("100/400:3 90/400", "auto", [Gpu(0, "MIG-00-2")]),
        ("100/1000 900/1000", "0", [Gpu(0, "GPU-00")]),
        ("1/1 1/1 1/1", "2,0", [Gpu(2, "GPU-02"), Gpu(0, "GPU-00")]),
        ("1/1 1/1", "GPU-01", [Gpu(1, "GPU-01")]),
        ("1/1 1/1:2", "GPU-00,MIG-01-1", [Gpu(0, "GPU-00"), Gpu(1, "MIG-01-1")]),
    ],
)
def test_what_is_wanted_is_found(host: Host, gpus: str, wanted: str, found: list[Gpu]) -> None:
    host.has(gpus)
    assert list(choose(wanted)) == found


@pytest.mark.parametrize(
    ("gpus", "taken", "found"),
    [
        ("900/1000 900/1000", [0], 1),
        ("900/1000 910/1000", [1], 0),
        ("900/1000 900/1000 900/1000", [0, 0, 1, 2, 2], 1),
        ("500/1000 900/1000", [1], 1),
        ("900/1000 900/1000", [0, 1], 0),
    ],
)
def test_of_gpus_with_as_much_memory_the_one_with_fewest_workers_wins(
    host: Host, gpus: str, taken: list[int], found: int
) -> None:
    host.has(gpus)
    assert choose("auto", taken)[0].index == found


@pytest.mark.parametrize(
    ("gpus", "wanted", "said"),
    [
        ("1/1 1/1", "2", "there is no GPU 2; there are 0 (GPU-00), 1 (GPU-01)"),
        ("1/1", "0,7", "there is no GPU 7; there are 0 (GPU-00)"),
        ("1/1", "GPU-ff", "there is no GPU GPU-ff; there are 0 (GPU-00)"),
        ("1/1 1/1:1", "MIG-ff", "there is no GPU MIG-ff; there are 0 (GPU-00), MIG-01-0"),
        ("1/1:2", "0", "GPU 0 is divided by MIG; name a part of it: MIG-00-0, MIG-00-1"),
        ("1/1", "0,GPU-00", "gpu 0,GPU-00 names one GPU twice"),
        ("", "auto", "gpu auto was asked for, but the driver has no GPU; leave gpu out"),
        ("lost", "0", "gpu 0 was asked for, but the driver has no GPU; leave gpu out"),
        ("1/1:0", "0", "gpu 0 was asked for, but the driver has no GPU; leave gpu out"),
        ("1/1:0 1/1", "0", "there is no GPU 0; there are 1 (GPU-01)"),
    ],
)
def test_gpus_that_are_not_there(host: Host, gpus: str, wanted: str, said: str) -> None:
    host.has(gpus)
    with pytest.raises(InputError) as caught:
        choose(wanted)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "wanted",
    [
        *("", "first", "-1", "0,", "0,0", "00", "1e3", "all", "GPU-", "GPU-a;b", "auto,0", "0 "),
        *("0000:3:00.0", "0000:03:00.8", "03:00.0", "0000:03:00.0-"),
    ],
)
def test_words_that_name_no_gpu_reach_no_driver(host: Host, wanted: str) -> None:
    with pytest.raises(InputError, match="gpu "):
        choose(wanted)
    assert host.asked == []


def test_without_a_driver_there_is_one_clear_line(host: Host) -> None:
    host.answers("return nvmlInitWithFlags 9")
    with pytest.raises(NoDriverError) as absent:
        inventory()
    assert str(absent.value) == "there is no NVIDIA driver here (Driver Not Loaded), and no AMD GPU"
    with pytest.raises(InputError) as caught:
        choose("auto")
    assert str(caught.value) == (
        "gpu auto was asked for, but there is no NVIDIA driver here (Driver Not Loaded), and no AMD"
        " GPU; install it, or leave gpu out"
    )


def test_a_driver_that_fails_says_why(host: Host) -> None:
    host.answers("return nvmlInitWithFlags 999")
    with pytest.raises(InputOutputError) as caught:
        choose("auto")
    assert str(caught.value) == "NVIDIA's driver cannot be used: Unknown Error; see nvidia-smi"


def test_a_driver_that_crashes_takes_only_its_own_process_along(host: Host) -> None:
    host.answers("crash nvmlInitWithFlags")
    with pytest.raises(InputOutputError, match="was ended by signal 6"):
        choose("auto")


def test_a_driver_that_hangs_is_left_behind(host: Host) -> None:
    host.answers("hang nvmlInitWithFlags")
    before = children()
    with pytest.raises(InputOutputError) as caught:
        choose("auto", patience=SOON)
    assert str(caught.value) == (
        "the GPU drivers did not answer within 0.5 s; see nvidia-smi and dmesg"
    )
    until(lambda: children() == before)


def test_while_one_question_hangs_no_second_one_is_asked(host: Host) -> None:
    host.answers("hang nvmlInitWithFlags")
    os.mkfifo(host.calls)
    said: list[str] = []
    first = threading.Thread(target=lambda: said.append(refused(LONG)))
    first.start()
    with host.calls.open() as calls:
        stuck = int(calls.readline().split()[0])
    try:
        assert "an earlier question to the GPU drivers has no answer after 0.5 s" in refused(SOON)
    finally:
        os.kill(stuck, signal.SIGKILL)
        first.join()
    assert "was ended by signal 9" in said[0]


def test_who_cannot_be_killed_holds_up_every_other_question(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.answers("hang nvmlInitWithFlags")
    os.mkfifo(host.calls)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess.Popen, "kill", lambda process: None)
        assert "the GPU drivers did not answer" in refused(SOON)
    with host.calls.open() as calls:
        stuck = int(calls.readline().split()[0])
    try:
        assert "an earlier question to the GPU drivers has no answer" in refused(SOON)
    finally:
        os.kill(stuck, signal.SIGKILL)
    host.calls.unlink()
    host.has("1/1")
    assert [gpu.uuid for gpu in inventory()] == ["GPU-00"]


def children() -> set[str]:
    """The processes that this thread has started and not buried."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def refused(patience: float) -> str:
    """What is said to a question that gets no answer."""
    with pytest.raises(InputOutputError) as caught:
        inventory(patience)
    return str(caught.value)


def test_simultaneous_questions_all_get_their_answer(host: Host) -> None:
    host.has("1/1")
    found: list[tuple[Gpu, ...]] = []
    threads = [threading.Thread(target=lambda: found.append(choose("0"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(Gpu(0, "GPU-00"),)] * 5


def test_a_place_where_no_lock_can_be_is_one_clear_line(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/dev/null/x")
    with pytest.raises(
        InputOutputError, match=r"^/dev/null/x/gpu\.lock cannot be opened: Not a di"
    ):
        inventory()


def test_the_lock_is_let_go(host: Host) -> None:
    host.has("1/1")
    inventory()
    with host.lock.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# GPUs of AMD.

GFX942 = "gfx_target_version 90402\nunique_id 255"
NO_ID = "gfx_target_version 101000\nunique_id 0"


def test_gpus_of_amd_without_a_driver_of_nvidia(host: Host) -> None:
    host.standin.unload()
    host.has_amd(3, 100, 1000, NO_ID)
    host.has_amd(4, 900, 1000, GFX942)
    assert inventory() == [
        GpuState(0, "0000:03:00.0", "Test Instinct", 100 * MIB, 1000 * MIB, AMD, "0"),
        GpuState(
            *(1, "GPU-00000000000000ff", "Test Instinct", 900 * MIB, 1000 * MIB),
            *(AMD, "GPU-00000000000000ff"),
        ),
    ]
    first = Gpu(0, "0000:03:00.0", "0")
    second = Gpu(1, "GPU-00000000000000ff", "GPU-00000000000000ff")
    assert choose("auto") == (second,)
    assert choose("0") == choose("0000:03:00.0") == (first,)
    assert choose("GPU-00000000000000ff,0000:03:00.0") == (second, first)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("auto", Gpu(0, "GPU-00")),
        ("1", Gpu(1, "GPU-01")),
        ("GPU-00", Gpu(0, "GPU-00")),
        ("0000:03:00.0", Gpu(0, "0000:03:00.0", "0")),
    ],
)
def test_both_vendors_in_one_host(host: Host, wanted: str, found: Gpu) -> None:
    host.has("900/1000 500/1000")
    host.has_amd(3, 400, 512, NO_ID)
    assert choose(wanted) == (found,)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            "0",
            "GPU 0 may be NVIDIA's or AMD's; name it by its UUID: GPU-00, GPU-00000000000000ff",
        ),
        (
            "GPU-00,GPU-00000000000000ff",
            "gpu GPU-00,GPU-00000000000000ff names GPUs of NVIDIA and of AMD; a program can use one"
            " kind",
        ),
        (
            "1",
            "ROCm cannot use GPU 1 (0000:09:00.0): /sys/class/kfd has no such GPU",
        ),
        (
            "0000:09:00.0",
            "ROCm cannot use GPU 1 (0000:09:00.0): /sys/class/kfd has no such GPU",
        ),
        (
            "7",
            "there is no GPU 7; there are 0 (GPU-00), 0 (GPU-00000000000000ff), 1 (0000:09:00.0)",
        ),
    ],
)
def test_names_that_do_not_do_where_there_is_more(host: Host, wanted: str, said: str) -> None:
    host.has("900/1000")
    host.has_amd(9, 2000, 2000)
    host.has_amd(10, 400, 512, GFX942)
    with pytest.raises(InputError) as caught:
        choose(wanted)
    assert str(caught.value) == said


def test_auto_leaves_out_what_rocm_cannot_use(host: Host) -> None:
    host.standin.unload()
    host.has_amd(9, 2000, 2000)
    with pytest.raises(InputError, match=r"ROCm cannot use GPU 0 \(0000:09:00\.0\)"):
        choose("auto")
    host.has_amd(10, 400, 512, GFX942)
    assert [gpu.uuid for gpu in choose("auto")] == ["GPU-00000000000000ff"]


def test_what_no_process_holds_of_a_partition_is_free(host: Host) -> None:
    host.standin.unload()
    host.has_amd(3, 0, 4000, "location_id 768\nunique_id 5")
    build(
        f"""
==> class/kfd/kfd/topology/nodes/4/gpu_id <==
4
==> class/kfd/kfd/topology/nodes/4/properties <==
location_id 769
unique_id 5
==> class/kfd/kfd/topology/nodes/3/mem_banks/0/properties <==
heap_type 1
size_in_bytes {2000 * MIB}
==> class/kfd/kfd/topology/nodes/4/mem_banks/0/properties <==
heap_type 1
size_in_bytes {2000 * MIB}
==> class/kfd/kfd/proc/50/vram_3 <==
{500 * MIB}
""",
        host.sys,
    )
    assert [gpu.free_bytes for gpu in inventory()] == [1500 * MIB, 2000 * MIB]
    assert choose("auto") == (Gpu(1, "0000:03:00.0-1", "1"),)
    assert choose("0000:03:00.0-0") == (Gpu(0, "0000:03:00.0-0", "0"),)
    (host.sys / "class/kfd/kfd/proc/50/vram_3").write_text("0")
    assert [choose("auto", taken)[0].index for taken in ([], [0], [0, 1], [1, 1, 0])] == [
        0,
        1,
        0,
        0,
    ]


def test_while_nvidias_driver_fails_only_a_uuid_means_amds(host: Host) -> None:
    host.answers("return nvmlInitWithFlags 999")
    host.has_amd(3, 400, 512, GFX942)
    for wanted in ("auto", "0", "GPU-00000000000000ff,0"):
        with pytest.raises(InputOutputError, match="NVIDIA's driver cannot be used"):
            choose(wanted)
    assert [gpu.uuid for gpu in choose("GPU-00000000000000ff")] == ["GPU-00000000000000ff"]


def test_what_the_package_offers() -> None:
    assert {"choose", "inventory", "GpuState", "NoDriverError"} == set(gpu.__all__)
