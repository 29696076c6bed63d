"""AMD GPUs, from trees of files as real hosts have them in /sys."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.trees import KernelManners, build

from worker_exporter.gpu import kfd
from worker_exporter.gpu.amdgpu import devices
from worker_exporter.gpu.device import AMD, Device, Process

MIB = 1 << 20

TWO_MI210 = """
==> module/amdgpu/version <==
6.8.5
==> class/drm/version <==
drm 1.1.0 20060810
==> class/drm/card0/device/uevent <==
DRIVER=ast
PCI_CLASS=30000
PCI_ID=1A03:2000
PCI_SLOT_NAME=0000:c1:00.0
==> class/drm/card0-VGA-1/status <==
disconnected
==> class/drm/card1/device/uevent <==
DRIVER=amdgpu
PCI_CLASS=38000
PCI_ID=1002:740F
PCI_SUBSYS_ID=1002:0C34
PCI_SLOT_NAME=0000:63:00.0
MODALIAS=pci:v00001002d0000740Fsv00001002sd00000C34bc03sc80i00
==> class/drm/card1/device/vendor <==
0x1002
==> class/drm/card1/device/unique_id <==
1901ead3a2ecd4a6
==> class/drm/card1/device/product_name <==
AMD Instinct MI210
==> class/drm/card1/device/mem_info_vram_total <==
68702699520
==> class/drm/card1/device/mem_info_vram_used <==
42960797696
==> class/drm/card1/device/gpu_busy_percent <==
97
==> class/drm/card1/device/power/runtime_status <==
active
==> class/drm/card1/device/hwmon/hwmon7/name <==
amdgpu
==> class/drm/card1/device/hwmon/hwmon7/temp1_input <==
61000
==> class/drm/card1/device/hwmon/hwmon7/temp2_input <==
68000
==> class/drm/card1/device/hwmon/hwmon7/power1_average <==
231000000
==> class/drm/card2/device/uevent <==
DRIVER=amdgpu
PCI_CLASS=38000
PCI_ID=1002:740F
PCI_SUBSYS_ID=1002:0C34
PCI_SLOT_NAME=0000:43:00.0
MODALIAS=pci:v00001002d0000740Fsv00001002sd00000C34bc03sc80i00
==> class/drm/card2/device/vendor <==
0x1002
==> class/drm/card2/device/unique_id <==
51276ac12ce05db3
==> class/drm/card2/device/product_name <==
AMD Instinct MI210
==> class/drm/card2/device/mem_info_vram_total <==
68702699520
==> class/drm/card2/device/mem_info_vram_used <==
10931200
==> class/drm/card2/device/gpu_busy_percent <==
0
==> class/drm/card2/device/power/runtime_status <==
active
==> class/drm/card2/device/hwmon/hwmon8/name <==
amdgpu
==> class/drm/card2/device/hwmon/hwmon8/temp1_input <==
37000
==> class/drm/card2/device/hwmon/hwmon8/temp2_input <==
39000
==> class/drm/card2/device/hwmon/hwmon8/power1_average <==
42000000
==> class/drm/renderD128/device/uevent <==
DRIVER=amdgpu
PCI_SLOT_NAME=0000:63:00.0
==> class/kfd/kfd/topology/nodes/0/gpu_id <==
0
==> class/kfd/kfd/topology/nodes/0/properties <==
cpu_cores_count 64
simd_count 0
location_id 0
domain 0
drm_render_minor 0
==> class/kfd/kfd/topology/nodes/2/gpu_id <==
24248
==> class/kfd/kfd/topology/nodes/2/properties <==
cpu_cores_count 0
simd_count 416
gfx_target_version 90010
vendor_id 4098
device_id 29711
location_id 25344
domain 0
drm_render_minor 128
hive_id 0
capability 746037888
unique_id 1801979520617338022
num_xcc 1
==> class/kfd/kfd/topology/nodes/10/gpu_id <==
41657
==> class/kfd/kfd/topology/nodes/10/properties <==
cpu_cores_count 0
simd_count 416
gfx_target_version 90010
vendor_id 4098
device_id 29711
location_id 17152
domain 0
drm_render_minor 129
hive_id 0
capability 746037888
unique_id 5847760019078012339
num_xcc 1
==> class/kfd/kfd/proc/23145/pasid <==
32770
==> class/kfd/kfd/proc/23145/vram_24248 <==
32212254720
==> class/kfd/kfd/proc/23145/vram_41657 <==
0
==> class/kfd/kfd/proc/23145/sdma_24248 <==
0
==> class/kfd/kfd/proc/23145/stats_24248/cu_occupancy <==
104
==> class/kfd/kfd/proc/23145/queues/0/gpuid <==
24248
==> class/kfd/kfd/proc/23146/vram_24248 <==
10737418240
==> class/kfd/kfd/proc/23146/vram_41657 <==
4194304
==> class/kfd/kfd/proc/23146/queues/ <==
==> class/kfd/kfd/proc/9100/vram_24248 <==
0
==> class/kfd/kfd/proc/9100/vram_41657 <==
2097152
==> class/kfd/kfd/proc/9100/queues/0/gpuid <==
41657
"""
"""Two of the GPUs of a real host: kfd has them in another order than the bus."""

NEAR = Device(
    index=0,
    uuid="GPU-51276ac12ce05db3",
    name="AMD Instinct MI210",
    driver="6.8.5",
    memory_used_bytes=10931200,
    memory_total_bytes=68702699520,
    utilization_ratio=0.0,
    temperature_celsius=37.0,
    power_watts=42.0,
    vendor=AMD,
    rocr_name="GPU-51276ac12ce05db3",
    processes=(Process(9100, 2 * MIB), Process(23146, 4 * MIB)),
)
FAR = Device(
    index=1,
    uuid="GPU-1901ead3a2ecd4a6",
    name="AMD Instinct MI210",
    driver="6.8.5",
    memory_used_bytes=42960797696,
    memory_total_bytes=68702699520,
    utilization_ratio=0.97,
    temperature_celsius=61.0,
    power_watts=231.0,
    vendor=AMD,
    rocr_name="GPU-1901ead3a2ecd4a6",
    processes=(Process(23145, 30 << 30), Process(23146, 10 << 30)),
)
"""What its files say of the second card of the bus, which is the first of kfd."""


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """A host with two MI210."""
    build(TWO_MI210, tmp_path)
    return tmp_path


def far(root: Path) -> Device:
    """The device at 0000:63:00.0, which must be there without any fault."""
    found, faults = devices(str(root))
    assert faults == []
    return next(device for device in found if device.index == FAR.index)


def card(root: Path, name: str) -> Path:
    """A file of that card."""
    return root / "class/drm/card1/device" / name


def test_two_cards_and_three_processes(sys: Path) -> None:
    assert devices(str(sys)) == ([NEAR, FAR], [])


def test_a_host_without_amd_gpus(tmp_path: Path) -> None:
    assert devices(str(tmp_path)) == ([], [])
    build(
        """
==> class/drm/card0/device/uevent <==
DRIVER=nvidia
PCI_ID=10DE:2684
PCI_SLOT_NAME=0000:01:00.0
==> class/drm/card1/device/uevent <==
DRIVER=i915
PCI_ID=8086:5917
PCI_SLOT_NAME=0000:00:02.0
==> class/drm/card2/device/uevent <==
DRIVER=radeon
PCI_ID=1002:6738
PCI_SLOT_NAME=0000:02:00.0
==> class/drm/card3/device/uevent <==
MODALIAS=platform:simple-framebuffer
==> class/drm/card4/ <==
""",
        tmp_path,
    )
    assert devices(str(tmp_path)) == ([], [])


def test_a_card_that_kfd_does_not_know_comes_last_and_tells_no_processes(sys: Path) -> None:
    build(
        """
==> class/drm/card3/device/uevent <==
DRIVER=amdgpu
PCI_ID=1002:687F
PCI_SLOT_NAME=0000:09:00.0
==> class/drm/card3/device/unique_id <==
0123456789abcdef
==> class/drm/card3/device/product_name <==

==> class/drm/card3/device/mem_info_vram_total <==
8573157376
==> class/drm/card3/device/mem_info_vram_used <==
1490378752
==> class/drm/card3/device/gpu_busy_percent <==
4
""",
        sys,
    )
    alone = Device(
        index=2,
        uuid="GPU-0123456789abcdef",
        name="AMD 1002:687f",
        driver="6.8.5",
        memory_used_bytes=1490378752,
        memory_total_bytes=8573157376,
        utilization_ratio=0.04,
        vendor=AMD,
        processes=None,
    )
    assert devices(str(sys)) == ([NEAR, FAR, alone], [])


def test_without_kfd_processes_cannot_be_told(sys: Path) -> None:
    (sys / "class/kfd").rename(sys / "class/none")
    found, faults = devices(str(sys))
    assert [(gpu.uuid, gpu.processes, gpu.rocr_name) for gpu in found] == [
        (NEAR.uuid, None, None),
        (FAR.uuid, None, None),
    ]
    assert faults == []


def test_a_kernel_that_lists_no_processes(sys: Path) -> None:
    (sys / "class/kfd/kfd/proc").rename(sys / "proc")
    assert far(sys).processes is None


def test_gpus_that_nobody_uses(sys: Path) -> None:
    (sys / "class/kfd/kfd/proc").rename(sys / "proc")
    (sys / "class/kfd/kfd/proc").mkdir()
    assert far(sys).processes == ()


def test_an_integrated_gpu_has_no_unique_id(tmp_path: Path) -> None:
    build(
        """
==> class/drm/card1/device/uevent <==
DRIVER=amdgpu
PCI_ID=1002:164E
PCI_SLOT_NAME=10000:e1:1f.7
==> class/drm/card1/device/mem_info_vram_total <==
536870912
==> class/drm/card1/device/mem_info_vram_used <==
20193280
==> class/kfd/kfd/topology/nodes/2/gpu_id <==
52132
==> class/kfd/kfd/topology/nodes/2/properties <==
simd_count 4
gfx_target_version 100306
location_id 57855
domain 65536
unique_id 0
==> class/kfd/kfd/proc/ <==
""",
        tmp_path,
    )
    (gpu,), faults = devices(str(tmp_path))
    assert gpu == Device(
        index=0,
        uuid="10000:e1:1f.7",
        name="AMD gfx1036",
        memory_used_bytes=20193280,
        memory_total_bytes=512 * MIB,
        vendor=AMD,
        rocr_name="0",
    )
    assert faults == []


def test_two_gpus_with_one_unique_id_go_by_their_addresses(sys: Path) -> None:
    properties = sys / "class/kfd/kfd/topology/nodes/10/properties"
    text = properties.read_text()
    properties.write_text(text.replace("5847760019078012339", "1801979520617338022"))
    found, _ = devices(str(sys))
    assert [(gpu.uuid, gpu.rocr_name) for gpu in found] == [
        ("0000:43:00.0", "1"),
        ("0000:63:00.0", "0"),
    ]


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (90006, "gfx906"),
        (100300, "gfx1030"),
        (110000, "gfx1100"),
        (120001, "gfx1201"),
    ],
)
def test_the_name_of_a_chip(sys: Path, version: int, name: str) -> None:
    card(sys, "product_name").write_text("\n")
    properties = sys / "class/kfd/kfd/topology/nodes/2/properties"
    properties.write_text(properties.read_text().replace("90010", str(version)))
    assert far(sys).name == f"AMD {name}"


# What a GPU measures.


def test_a_gpu_that_sleeps_is_not_woken_up(sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(sys, "power/runtime_status").write_text("suspended\n")
    opened = []

    def opening(path: str, *rest: Any, ordinary: Any = os.open) -> int:
        opened.append(path)
        descriptor: int = ordinary(path, *rest)
        return descriptor

    monkeypatch.setattr(os, "open", opening)
    gpu = far(sys)
    assert (gpu.utilization_ratio, gpu.temperature_celsius, gpu.power_watts) == (None, None, None)
    assert (gpu.memory_used_bytes, gpu.processes) == (FAR.memory_used_bytes, FAR.processes)
    asleep = [path for path in opened if path.startswith(str(card(sys, "")))]
    assert not any("busy" in path or "hwmon" in path for path in asleep)
    assert asleep and any("card2/device/gpu_busy_percent" in path for path in opened)


SENSORS = {
    "gpu_busy_percent": "utilization_ratio",
    "mem_info_vram_used": "memory_used_bytes",
    "mem_info_vram_total": "memory_total_bytes",
    "hwmon/hwmon7/power1_average": "power_watts",
}


@pytest.mark.parametrize("file", SENSORS)
@pytest.mark.parametrize(
    "number",
    [errno.EPERM, errno.ENODATA, errno.EINVAL, errno.EOPNOTSUPP, errno.EIO, errno.EBUSY],
)
def test_what_a_gpu_does_not_answer_is_left_out(
    sys: Path, monkeypatch: pytest.MonkeyPatch, file: str, number: int
) -> None:
    KernelManners(monkeypatch).refuse(card(sys, file), number)
    gpu = far(sys)
    others = {name for each, name in SENSORS.items() if each != file}
    assert getattr(gpu, SENSORS[file]) is None
    assert all(getattr(gpu, name) == getattr(FAR, name) for name in others)


@pytest.mark.parametrize("file", SENSORS)
@pytest.mark.parametrize(
    "text", ["", "n/a\n", "-1\n", "12 34\n", "0x10\n", "1e3\n", "1_0\n", "\udcff", "²", "٣"]
)
def test_what_makes_no_sense_is_left_out(sys: Path, file: str, text: str) -> None:
    card(sys, file).write_bytes(text.encode(errors="surrogateescape"))
    assert getattr(far(sys), SENSORS[file]) is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gpu_busy_percent", "101"),
        ("gpu_busy_percent", "65535"),
        ("mem_info_vram_used", "68702699521"),
        ("hwmon/hwmon7/power1_average", "4294967235"),
    ],
)
def test_what_cannot_be_is_left_out(sys: Path, file: str, text: str) -> None:
    card(sys, file).write_text(text)
    assert getattr(far(sys), SENSORS[file]) is None


@pytest.mark.parametrize("file", [*SENSORS, "uevent", "unique_id", "hwmon/hwmon7/temp1_input"])
def test_what_may_not_be_read_is_said(
    sys: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    # kfd would tell the unique_id as well.
    (sys / "class/kfd/kfd/topology").rename(sys / "topology")
    KernelManners(monkeypatch).refuse(card(sys, file), errno.EACCES)
    found, faults = devices(str(sys))
    assert faults == [f"{card(sys, file)} cannot be read: Permission denied"]
    assert found[0].uuid == NEAR.uuid


def test_a_chip_without_a_sensor_at_its_edge_tells_its_hottest_spot(sys: Path) -> None:
    card(sys, "hwmon/hwmon7/temp1_input").unlink()
    assert far(sys).temperature_celsius == 68.0


def test_a_chip_that_tells_its_power_of_this_moment(sys: Path) -> None:
    card(sys, "hwmon/hwmon7/power1_average").unlink()
    card(sys, "hwmon/hwmon7/power1_input").write_text("98500000\n")
    assert far(sys).power_watts == 98.5


def test_a_gpu_in_the_cold(sys: Path) -> None:
    card(sys, "hwmon/hwmon7/temp1_input").write_text("-4500\n")
    assert far(sys).temperature_celsius == -4.5


def test_a_card_that_vanishes(sys: Path) -> None:
    card(sys, "uevent").unlink()
    found, faults = devices(str(sys))
    assert ([gpu.uuid for gpu in found], faults) == ([NEAR.uuid], [])


# Processes.


def held(root: Path) -> tuple[Process, ...] | None:
    """The processes on 0000:63:00.0 but those of the tree."""
    processes = far(root).processes
    assert processes is not None
    return tuple(process for process in processes if process not in (FAR.processes or ()))


def test_a_process_without_memory_uses_a_gpu_only_with_a_queue(sys: Path) -> None:
    build(
        """
==> class/kfd/kfd/proc/500/vram_24248 <==
0
==> class/kfd/kfd/proc/500/queues/3/gpuid <==
24248
==> class/kfd/kfd/proc/501/vram_24248 <==
0
==> class/kfd/kfd/proc/501/queues/3/gpuid <==
41657
==> class/kfd/kfd/proc/502/vram_24248 <==
0
""",
        sys,
    )
    assert held(sys) == (Process(500, 0),)


def test_a_process_that_says_no_number(sys: Path) -> None:
    build(
        """
==> class/kfd/kfd/proc/500/vram_24248 <==
?
==> class/kfd/kfd/proc/500/queues/0/gpuid <==
24248
==> class/kfd/kfd/proc/501/vram_24248 <==
?
==> class/kfd/kfd/proc/502/vram_ <==
77
==> class/kfd/kfd/proc/503/vram_77x <==
77
==> class/kfd/kfd/proc/self/vram_24248 <==
77
""",
        sys,
    )
    assert held(sys) == (Process(500, None),)


def test_memory_beyond_all_that_there_is(sys: Path) -> None:
    build(f"\n==> class/kfd/kfd/proc/500/vram_24248 <==\n{2**64 - 4096}\n", sys)
    assert held(sys) == (Process(500, None),)


def test_all_contexts_of_a_process_count(sys: Path) -> None:
    build(
        """
==> class/kfd/kfd/proc/500/vram_24248 <==
1000
==> class/kfd/kfd/proc/500/context_1/vram_24248 <==
200
==> class/kfd/kfd/proc/500/context_2/vram_24248 <==
30
==> class/kfd/kfd/proc/501/vram_24248 <==
0
==> class/kfd/kfd/proc/501/context_1/vram_24248 <==
7
==> class/kfd/kfd/proc/502/vram_24248 <==
1000
==> class/kfd/kfd/proc/502/context_1/vram_24248 <==
?
==> class/kfd/kfd/proc/502/context_1/queues/0/gpuid <==
24248
""",
        sys,
    )
    assert held(sys) == (Process(500, 1230), Process(501, 7), Process(502, None))


def test_processes_that_vanish_are_left_out(sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(
        """
==> class/kfd/kfd/proc/500 -> gone <==
==> class/kfd/kfd/proc/501/vram_24248 -> gone <==
==> class/kfd/kfd/proc/502/vram_24248 <==
1
==> class/kfd/kfd/proc/503/vram_24248 <==
0
==> class/kfd/kfd/proc/503/queues -> gone <==
""",
        sys,
    )
    path = sys / "class/kfd/kfd/proc/502/vram_24248"
    KernelManners(monkeypatch).refuse(path, errno.ENODEV)
    assert held(sys) == ()


def test_processes_that_may_not_be_read_are_said_in_one_line(
    sys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = KernelManners(monkeypatch)
    for pid in (9100, 23146):
        for gpu_id in (24248, 41657):
            manners.refuse(sys / f"class/kfd/kfd/proc/{pid}/vram_{gpu_id}", errno.EACCES)
    found, faults = devices(str(sys))
    assert faults == [
        f"some files below {sys}/class/kfd/kfd/proc cannot be read: Permission denied"
    ]
    assert [gpu.processes for gpu in found] == [
        (Process(9100, None),),
        (Process(23145, 30 << 30),),
    ]


def test_gpus_that_the_kernel_hides(sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sys / "class/kfd/kfd/topology/nodes/2/properties"
    KernelManners(monkeypatch).refuse(path, errno.EPERM)
    found, faults = devices(str(sys))
    assert faults == [
        f"{sys}/class/kfd/kfd/topology cannot be read: Operation not permitted, so processes on"
        " AMD GPUs are not seen; give this service access to /dev/dri/renderD*, as by"
        " DeviceAllow=char-drm rw"
    ]
    assert found[0] == NEAR
    assert (found[1].uuid, found[1].processes) == (FAR.uuid, None)


def test_a_node_that_vanishes(sys: Path) -> None:
    (sys / "class/kfd/kfd/topology/nodes/2/properties").unlink()
    assert far(sys).processes is None


# GPUs that are divided.

PARTITIONED = """
==> class/drm/card1/device/uevent <==
DRIVER=amdgpu
PCI_ID=1002:74A2
PCI_SLOT_NAME=0000:0a:00.0
==> class/drm/card1/device/unique_id <==
084cafeae17e7696
==> class/drm/card1/device/product_name <==
AMD Instinct MI308X
==> class/drm/card1/device/mem_info_vram_total <==
206141652992
==> class/drm/card1/device/mem_info_vram_used <==
85000000000
==> class/drm/card1/device/gpu_busy_percent <==
50
==> class/drm/card1/device/hwmon/hwmon3/temp2_input <==
43000
==> class/drm/card1/device/hwmon/hwmon3/power1_input <==
151000000
==> class/drm/card2/device/uevent <==
MODALIAS=platform:amdgpu_xcp
==> class/drm/card3/device/uevent <==
DRIVER=amdgpu
PCI_ID=1002:74A2
PCI_SLOT_NAME=0000:0b:00.0
==> class/kfd/kfd/topology/nodes/2/gpu_id <==
24248
==> class/kfd/kfd/topology/nodes/2/properties <==
simd_count 80
gfx_target_version 90402
location_id 2560
domain 0
drm_render_minor 128
unique_id 598046273873802902
==> class/kfd/kfd/topology/nodes/2/mem_banks/0/properties <==
heap_type 1
size_in_bytes 51539607552
flags 0
width 8192
mem_clk_max 1300
==> class/kfd/kfd/topology/nodes/3/gpu_id <==
41657
==> class/kfd/kfd/topology/nodes/3/properties <==
simd_count 80
gfx_target_version 90402
location_id 2561
domain 0
drm_render_minor 129
unique_id 598046273873802902
==> class/kfd/kfd/topology/nodes/3/mem_banks/0/properties <==
heap_type 2
size_in_bytes 51539607552
==> class/kfd/kfd/topology/nodes/3/mem_banks/1/properties <==
heap_type 0
size_in_bytes 1000
==> class/kfd/kfd/topology/nodes/4/gpu_id <==
7
==> class/kfd/kfd/topology/nodes/4/properties <==
simd_count 80
gfx_target_version 90402
location_id 2816
domain 0
drm_render_minor 136
unique_id 77
==> class/kfd/kfd/proc/11/vram_24248 <==
1000
==> class/kfd/kfd/proc/12/vram_41657 <==
2000
"""
"""A real MI308X with its first two partitions, as an older driver counts them, and another card."""


def test_each_partition_is_a_device(tmp_path: Path) -> None:
    build(PARTITIONED, tmp_path)
    found, faults = devices(str(tmp_path))
    first = Device(
        index=0,
        uuid="GPU-084cafeae17e7696-0",
        name="AMD Instinct MI308X",
        memory_total_bytes=48 << 30,
        temperature_celsius=43.0,
        power_watts=151.0,
        vendor=AMD,
        rocr_name="0",
        processes=(Process(11, 1000),),
    )
    second = Device(
        index=1,
        uuid="GPU-084cafeae17e7696-1",
        name="AMD Instinct MI308X",
        memory_total_bytes=48 << 30,
        vendor=AMD,
        rocr_name="1",
        processes=(Process(12, 2000),),
    )
    other = Device(
        index=2,
        uuid="GPU-000000000000004d",
        name="AMD gfx942",
        vendor=AMD,
        rocr_name="GPU-000000000000004d",
        processes=(),
    )
    assert (found, faults) == ([first, second, other], [])


def test_partitions_with_names_of_their_own(tmp_path: Path) -> None:
    build(PARTITIONED, tmp_path)
    second = tmp_path / "class/kfd/kfd/topology/nodes/3/properties"
    text = second.read_text().replace("location_id 2561", f"location_id {(1 << 28) + 2560}")
    second.write_text(text.replace("598046273873802902", "598046273873802903"))
    found, _ = devices(str(tmp_path))
    assert [(gpu.index, gpu.uuid, gpu.rocr_name) for gpu in found[:2]] == [
        (0, "GPU-084cafeae17e7696", "GPU-084cafeae17e7696"),
        (1, "GPU-084cafeae17e7697", "GPU-084cafeae17e7697"),
    ]
    assert found[1].processes == (Process(12, 2000),)


def test_functions_of_a_card_that_are_cards_of_their_own(sys: Path) -> None:
    uevent = sys / "class/drm/card2/device/uevent"
    uevent.write_text(uevent.read_text().replace("0000:43:00.0", "0000:63:00.1"))
    properties = sys / "class/kfd/kfd/topology/nodes/10/properties"
    properties.write_text(properties.read_text().replace("17152", "25345"))
    found, _ = devices(str(sys))
    assert [(gpu.uuid, gpu.processes) for gpu in found] == [
        (FAR.uuid, FAR.processes),
        (NEAR.uuid, NEAR.processes),
    ]


def test_memory_of_a_partition_that_says_nothing(tmp_path: Path) -> None:
    build(PARTITIONED, tmp_path)
    bank = tmp_path / "class/kfd/kfd/topology/nodes/2/mem_banks/0/properties"
    bank.write_text("heap_type 1\nsize_in_bytes ?\n")
    assert devices(str(tmp_path))[0][0].memory_total_bytes is None


def test_a_host_whose_files_may_not_be_listed(sys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = f"{sys}/class/kfd/kfd/proc"

    def listing(path: str, ordinary: Any = os.listdir) -> list[str]:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        names: list[str] = ordinary(path)
        return names

    monkeypatch.setattr(os, "listdir", listing)
    found, faults = devices(str(sys))
    assert [gpu.processes for gpu in found] == [None, None]
    assert faults == [f"{closed} cannot be read: Permission denied"]


def test_kfd_alone_counts_as_rocm_does(sys: Path) -> None:
    assert [(node.place, node.gpu_id) for node in kfd.nodes(str(sys), set())] == [
        (0, 24248),
        (1, 41657),
    ]
