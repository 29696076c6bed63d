"""Block devices by their nodes, as Docker and systemd want them named."""

import os

from worker_sidecar.launch.device import device_of


def node(path: str, sysfs: str = "/sys") -> str:
    """The node, such as /dev/vda, of the whole disk that `path` stands for in an IoLimit.

    Raises InputError where no disk is behind it.
    """
    major, minor = device_of(path, sysfs)
    # the kernel writes ! for the / of names such as cciss/c0d0
    name = os.path.basename(os.path.realpath(f"{sysfs}/dev/block/{major}:{minor}"))
    return f"/dev/{name.replace('!', '/')}"
