"""What amdkfd, the compute half of AMD's kernel driver, says of its GPUs and their processes.

Sources: /sys/class/kfd/kfd/topology/nodes/*/{gpu_id,properties,mem_banks/*/properties} and
/sys/class/kfd/kfd/proc/<pid>/{vram_<gpu_id>,queues/*/gpuid,context_*/...}. It knows
processes that compute (HIP, OpenCL by ROCm); what only draws, as by Vulkan, is not here. Its PIDs
are those of the initial PID namespace.

sdma_<gpu_id> counts copies only, and stats_<gpu_id>/cu_occupancy is a share of the compute units
at one moment: neither is a share of time, so nothing here tells how much a process uses a GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker_exporter.gpu import sysfs
from worker_exporter.gpu.device import Process

_LOCAL_HEAPS = (1, 2)
"""heap_type of memory on the device: what the host can see of it, and what it cannot."""


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU, or a partition of one. `place` is its number among all, as the compute runtime counts.

    `address` is its PCI domain, and bus << 8 | device << 3 | function. `unique_id` is 0 where the
    GPU has none. `gfx` is the name of its instruction set, such as gfx942.
    """

    path: str
    place: int
    gpu_id: int
    address: tuple[int, int]
    unique_id: int
    gfx: str


def nodes(root: str, faults: set[str]) -> Sequence[Node]:
    """The GPUs in kfd's order; CPUs are left out. `root` is where sysfs is.

    The kernel hides GPUs from who may not open their device files (devices cgroup): a fault.
    """
    topology = f"{root}/class/kfd/kfd/topology"
    found: list[Node] = []
    for name in sorted(_numbers(sysfs.names(f"{topology}/nodes", faults)), key=int):
        try:
            node = _node(f"{topology}/nodes/{name}", len(found))
        except PermissionError as error:
            faults.add(
                f"{sysfs.refusal(topology, error)}, so processes on AMD GPUs are not seen; give"
                " this service access to /dev/dri/renderD*, as by DeviceAllow=char-drm rw"
            )
        except OSError:
            continue
        else:
            found += node
    return found


def _node(path: str, place: int) -> tuple[Node, ...]:
    gpu_id = sysfs.whole(sysfs.read(f"{path}/gpu_id"))
    if not gpu_id:
        return ()
    properties = _properties(sysfs.read(f"{path}/properties"))
    return (
        Node(
            path=path,
            place=place,
            gpu_id=gpu_id,
            address=(properties.get("domain", 0), properties.get("location_id", 0) & 0xFFFF),
            unique_id=properties.get("unique_id", 0),
            gfx=_gfx(properties.get("gfx_target_version", 0)),
        ),
    )


def _properties(text: str) -> Mapping[str, int]:
    pairs = (line.partition(" ") for line in text.splitlines())
    numbers = ((name, sysfs.whole(digits)) for name, _, digits in pairs)
    return {name: number for name, number in numbers if number is not None}


def _gfx(version: int) -> str:
    """90402 is gfx942, 90010 is gfx90a: major, then minor and stepping as hexadecimal digits."""
    if not version:
        return ""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def memory_bytes(node: Node, faults: set[str]) -> int | None:
    """The memory on the device that a node can use: a partition's share of the GPU's."""
    directory = f"{node.path}/mem_banks"
    banks = [
        _properties(sysfs.text(f"{directory}/{name}/properties", faults) or "")
        for name in _numbers(sysfs.names(directory, faults))
    ]
    sizes = [bank.get("size_in_bytes") for bank in banks if bank.get("heap_type") in _LOCAL_HEAPS]
    return _sum(sizes) if sizes else None


def processes(root: str, faults: set[str]) -> Mapping[int, Sequence[Process]] | None:
    """The processes on each GPU, by gpu_id; None: they cannot be told."""
    proc = f"{root}/class/kfd/kfd/proc"
    pids = sysfs.names(proc, faults)
    if pids is None:
        return None
    refused: set[str] = set()
    found: dict[int, list[Process]] = {}
    for pid in _numbers(pids):
        for gpu_id, memory in _held(f"{proc}/{pid}", refused).items():
            found.setdefault(gpu_id, []).append(Process(int(pid), memory))
    if refused:
        faults.add(f"some files below {proc} cannot be read: Permission denied")
    return found


def _held(directory: str, faults: set[str]) -> Mapping[int, int | None]:
    """The memory that a process holds on each GPU that it uses, by gpu_id, in all its contexts.

    Every process has a file for every GPU: 0 in it is a use only where a queue is there too.
    """
    names = sysfs.names(directory, faults) or []
    files = [name for name in names if name.startswith("vram_")]
    held = {
        int(gpu_id): sysfs.number(f"{directory}/vram_{gpu_id}", faults)
        for gpu_id in _numbers(name.removeprefix("vram_") for name in files)
    }
    if not all(held.values()):
        queues = _queues(f"{directory}/queues", faults)
        held = {gpu_id: memory for gpu_id, memory in held.items() if memory or gpu_id in queues}
    for name in names:
        if name.startswith("context_"):
            for gpu_id, memory in _held(f"{directory}/{name}", faults).items():
                held[gpu_id] = _sum([memory, held.get(gpu_id, 0)])
    return held


def _queues(directory: str, faults: set[str]) -> set[int | None]:
    """The gpu_id of each queue in `directory`."""
    names = _numbers(sysfs.names(directory, faults))
    return {sysfs.number(f"{directory}/{name}/gpuid", faults) for name in names}


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum, which nobody knows as long as one of the values is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _numbers(names: Iterable[str] | None) -> list[str]:
    return [name for name in names or () if name.isascii() and name.isdecimal()]
