"""Whether there is a driver of GPUs at all: a few cheap looks, and no call to any of them."""

import os

_NVIDIA_NODES = ("/dev/nvidiactl", "/dev/dxg")
"""The second one is WSL's, whose NVML has neither the first nor anything in /proc."""


def is_any_there(procfs: str, sysfs: str) -> bool:
    """Whether a driver of NVIDIA's (/proc/driver/nvidia/version, device nodes) or amdgpu
    (/sys/class/kfd, cards with VRAM) is loaded.
    """
    return _is_nvidia_there(procfs) or _is_amdgpu_there(sysfs)


def _is_nvidia_there(procfs: str) -> bool:
    return any(map(os.path.exists, (f"{procfs}/driver/nvidia/version", *_NVIDIA_NODES)))


def _is_amdgpu_there(sysfs: str) -> bool:
    if os.path.exists(f"{sysfs}/class/kfd/kfd/proc"):
        return True
    try:
        cards = os.listdir(f"{sysfs}/class/drm")
    except OSError:
        return False
    return any(
        os.path.exists(f"{sysfs}/class/drm/{card}/device/mem_info_vram_total") for card in cards
    )
