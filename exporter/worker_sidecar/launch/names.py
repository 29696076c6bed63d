"""What may be the name of a worker."""

import re

from worker_sidecar.errors import InputError

SERVICE = re.compile(r"[a-z0-9_]{1,64}")
INSTANCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}")

_KERNEL_FILE = re.compile(r"(?:cgroup|cpu|cpuset|memory|io|pids|hugetlb|misc|rdma|dmem)\..*")
_UNIT = re.compile(
    r".*\.(?:service|scope|slice|socket|mount|swap|target|device|automount|timer|path)"
)


def check_names(service: str, instance: str) -> None:
    """Raises InputError when the two cannot be the names of a worker."""
    check_service(service)
    if not INSTANCE.fullmatch(instance):
        raise InputError(
            f"instance {instance!r} is no name: 1 to 64 of A-Z, a-z, 0-9, _ and ., not . first"
        )
    if _KERNEL_FILE.fullmatch(instance) or _UNIT.fullmatch(instance):
        raise InputError(f"instance {instance!r} looks like a kernel file or a unit; name it else")


def check_service(service: str) -> None:
    """Raises InputError when `service` cannot be the name of a service."""
    if not SERVICE.fullmatch(service):
        raise InputError(
            f"service {service!r} is no name: 1 to 64 of a-z, 0-9 and _ (a dash would nest slices)"
        )


def port_of(text: str) -> int | None:
    """`text` as a port: a number from 1 to 65535 written plainly; None for anything else."""
    plain = text.isascii() and text.isdigit() and text[0] != "0"
    return int(text) if plain and len(text) <= 5 and int(text) <= 65535 else None


def claimed_port(instance: str) -> int | None:
    """The port that an instance has by its name, and no other worker may have: from 1024 up.

    Smaller numbers that nobody called a port count jobs: train/1 and eval/1 share nothing.
    """
    port = port_of(instance)
    return port if port is not None and port >= 1024 else None
