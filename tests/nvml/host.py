"""Directories like this host's own, except that what they say of GPU drivers is up to a test."""

import os
from pathlib import Path


def made_sysfs(place: Path) -> Path:
    """A /sys of a host that has loaded a driver of AMD's and has no card: the real /proc, in which
    real processes are, cannot say that one of NVIDIA's is there.
    """
    (place / "class/kfd/kfd/proc").mkdir(parents=True)
    _link("/sys", place, "class")
    return place


def made_procfs(place: Path) -> Path:
    """A /proc of a host without NVIDIA's driver, with the processes that there are by now."""
    (place / "driver").mkdir(parents=True)
    _link("/proc", place, "driver")
    return place


def _link(original: str, place: Path, own: str) -> None:
    for name in os.listdir(original):
        if name != own:
            (place / name).symlink_to(f"{original}/{name}")
