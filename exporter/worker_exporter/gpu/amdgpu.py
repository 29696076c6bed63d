"""AMD GPUs, from what their kernel driver shows in sysfs; no vendor tool or library is needed.

Sources: /sys/class/drm/card*/device/{uevent,unique_id,product_name,mem_info_vram_total,
mem_info_vram_used,gpu_busy_percent,power/runtime_status}, its hwmon/hwmon*/{temp1_input,
temp2_input,power1_average,power1_input}, /sys/module/amdgpu/version (only drivers that did not come
with the kernel have one), and kfd.py. amdgpu has no counter of energy there.

GPUs are numbered as by amd-smi and rocm-smi: in the order of their PCI addresses, those that the
compute runtime does not know last. ROCm itself counts in kfd's order, which is another one on some
hosts: so rocr_name is the UUID wherever there is one.

A GPU that is divided into partitions (MI300 in DPX, TPX, QPX or CPX mode) is as many devices with
numbers of their own, as in amd-smi. Each has its share of the memory and its processes; how much
of the memory is used, and how busy it is, the kernel only tells of the whole GPU, so that is left
out. Temperature and power of the GPU are with its first partition.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker_exporter.gpu import kfd, sysfs
from worker_exporter.gpu.device import AMD, Device, Process

_CARD = re.compile(r"card[0-9]+")
_SLOT = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_UNIQUE_ID = re.compile(r"[0-9a-f]{16}")

_ERRNO_AS_UNSIGNED = 2**32 - 4096
"""Some kernels print the number of an error as power: a very large unsigned number."""


@dataclass(frozen=True, slots=True)
class _Card:
    """A PCI card. `slot` is its address as the kernel writes it, `address` as in kfd.Node."""

    path: str
    slot: str
    address: tuple[int, int]
    pci_id: str


@dataclass(frozen=True, slots=True)
class _Host:
    """What all GPUs of a host share. `unique_ids` counts the nodes that have each."""

    driver: str
    unique_ids: Mapping[int, int]
    processes: Mapping[int, Sequence[Process]] | None


@dataclass(frozen=True, slots=True)
class _Sensors:
    """What a GPU measures, as in Device."""

    utilization_ratio: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None


_NOTHING = _Sensors()


def devices(root: str) -> tuple[list[Device], list[str]]:
    """All AMD GPUs, and one line about each thing that may not be read; `root` is where sysfs is.

    Nothing here wakes up a GPU that sleeps: of its own figures only its memory is told then.
    """
    faults: set[str] = set()
    cards = _cards(root, faults)
    if not cards:
        return [], sorted(faults)
    nodes = kfd.nodes(root, faults)
    host = _Host(
        driver=sysfs.text(f"{root}/module/amdgpu/version", faults) or "",
        unique_ids=Counter(node.unique_id for node in nodes),
        processes=kfd.processes(root, faults),
    )
    found: list[Device] = []
    for card, mine in _numbered(cards, nodes):
        found += _devices(card, mine, host, len(found), faults)
    return found, sorted(faults)


def _cards(root: str, faults: set[str]) -> Sequence[_Card]:
    """The cards of the amdgpu driver. Connectors are none, nor are the card files that a divided
    GPU has for its further partitions.
    """
    drm = f"{root}/class/drm"
    names = filter(_CARD.fullmatch, sysfs.names(drm, faults) or ())
    found = (_card(f"{drm}/{name}/device", faults) for name in names)
    return [card for card in found if card is not None]


def _card(path: str, faults: set[str]) -> _Card | None:
    lines = (sysfs.text(f"{path}/uevent", faults) or "").splitlines()
    facts = {name: value for name, _, value in (line.partition("=") for line in lines)}
    slot = _SLOT.fullmatch(facts.get("PCI_SLOT_NAME", ""))
    if slot is None or facts.get("DRIVER") != "amdgpu":
        return None
    domain, bus, device, function = (int(digits, 16) for digits in slot.groups())
    address = (domain, bus << 8 | device << 3 | function)
    return _Card(path, slot[0], address, facts.get("PCI_ID", "").lower())


def _numbered(
    cards: Iterable[_Card], nodes: Iterable[kfd.Node]
) -> Sequence[tuple[_Card, Sequence[kfd.Node]]]:
    """The cards in the order of their numbers, with their nodes: one, or one for each partition.

    Older drivers count partitions in the PCI function, though the bus has no such functions.
    """
    of: dict[tuple[int, int], list[kfd.Node]] = {card.address: [] for card in cards}
    for node in nodes:
        domain, function = node.address
        whole = (domain, function & ~7)
        of.get(node.address, of.get(whole, [])).append(node)
    order = sorted(cards, key=lambda card: (not of[card.address], card.address))
    return [(card, of[card.address]) for card in order]


def _devices(
    card: _Card, nodes: Sequence[kfd.Node], host: _Host, first: int, faults: set[str]
) -> Sequence[Device]:
    """A card, or its partitions, numbered from `first`."""
    if len(nodes) < 2:
        return [_whole(card, nodes[0] if nodes else None, host, first, faults)]
    return [
        _partition(card, node, host, place, first + place, faults)
        for place, node in enumerate(nodes)
    ]


def _whole(card: _Card, node: kfd.Node | None, host: _Host, index: int, faults: set[str]) -> Device:
    uuid = _uuid(node, host) if node else _unique_id(card, faults)
    total = _within(None, sysfs.number(f"{card.path}/mem_info_vram_total", faults))
    used = sysfs.number(f"{card.path}/mem_info_vram_used", faults)
    sensors = _sensors(card, faults)
    return Device(
        index=index,
        uuid=uuid or card.slot,
        name=_name(card, node, faults),
        driver=host.driver,
        memory_used_bytes=_within(total, used),
        memory_total_bytes=total,
        utilization_ratio=sensors.utilization_ratio,
        temperature_celsius=sensors.temperature_celsius,
        power_watts=sensors.power_watts,
        processes=_processes(node, total, host),
        vendor=AMD,
        rocr_name=_rocr_name(node, host),
    )


def _partition(
    card: _Card, node: kfd.Node, host: _Host, place: int, index: int, faults: set[str]
) -> Device:
    total = kfd.memory_bytes(node, faults)
    sensors = _NOTHING if place else _sensors(card, faults)
    return Device(
        index=index,
        uuid=_uuid(node, host) or f"{_unique_id(card, faults) or card.slot}-{place}",
        name=_name(card, node, faults),
        driver=host.driver,
        memory_total_bytes=total,
        temperature_celsius=sensors.temperature_celsius,
        power_watts=sensors.power_watts,
        processes=_processes(node, total, host),
        vendor=AMD,
        rocr_name=_rocr_name(node, host),
    )


def _uuid(node: kfd.Node, host: _Host) -> str | None:
    """How ROCm calls a node; None where no name of it is its own."""
    if not node.unique_id or host.unique_ids[node.unique_id] > 1:
        return None
    return f"GPU-{node.unique_id:016x}"


def _unique_id(card: _Card, faults: set[str]) -> str | None:
    digits = sysfs.text(f"{card.path}/unique_id", faults)
    return f"GPU-{digits}" if digits and _UNIQUE_ID.fullmatch(digits) else None


def _rocr_name(node: kfd.Node | None, host: _Host) -> str | None:
    return None if node is None else _uuid(node, host) or str(node.place)


def _name(card: _Card, node: kfd.Node | None, faults: set[str]) -> str:
    """The board's name where the board tells it, else the chip's."""
    board = sysfs.text(f"{card.path}/product_name", faults)
    return board or f"AMD {(node and node.gfx) or card.pci_id}"


def _processes(node: kfd.Node | None, total: int | None, host: _Host) -> tuple[Process, ...] | None:
    if node is None or host.processes is None:
        return None
    found = sorted(host.processes.get(node.gpu_id, ()), key=lambda process: process.pid)
    return tuple(
        process._replace(memory_used_bytes=_within(total, process.memory_used_bytes))
        for process in found
    )


def _sensors(card: _Card, faults: set[str]) -> _Sensors:
    """What the GPU measures; nothing while it sleeps, since older kernels wake it up to ask it."""
    if sysfs.text(f"{card.path}/power/runtime_status", faults) == "suspended":
        return _NOTHING
    chips = sysfs.names(f"{card.path}/hwmon", faults) or ()
    hwmon = f"{card.path}/hwmon/{min(chips, default='')}"
    return _Sensors(
        utilization_ratio=_busy(card, faults),
        temperature_celsius=_temperature(hwmon, faults),
        power_watts=_power(hwmon, faults),
    )


def _busy(card: _Card, faults: set[str]) -> float | None:
    percent = _within(100, sysfs.number(f"{card.path}/gpu_busy_percent", faults))
    return None if percent is None else percent / 100


def _temperature(hwmon: str, faults: set[str]) -> float | None:
    """The temperature at the edge of the chip; that of its hottest spot where it has no other."""
    for file in ("temp1_input", "temp2_input"):
        millidegrees = sysfs.number(f"{hwmon}/{file}", faults)
        if millidegrees is not None:
            return millidegrees / 1000
    return None


def _power(hwmon: str, faults: set[str]) -> float | None:
    """The mean of the last moments, or what newer chips have instead: the power right now."""
    for file in ("power1_average", "power1_input"):
        microwatts = _within(_ERRNO_AS_UNSIGNED, sysfs.number(f"{hwmon}/{file}", faults))
        if microwatts is not None:
            return microwatts / 1_000_000
    return None


def _within(most: int | None, value: int | None) -> int | None:
    """`value` where it can be: not below 0, and not above `most`, if that is known."""
    if value is None or value < 0 or (most is not None and value > most):
        return None
    return value
