"""Names and places of workers that are units of systemd."""

import os
from dataclasses import dataclass

from worker_sidecar.launch.names import INSTANCE, SERVICE

SYSTEM_CONTROL = "/run/systemd/system.control"


@dataclass(frozen=True, slots=True)
class Place:
    """Where workers go: units below `slice_name` of the system's manager, or with `user` of the
    caller's own. `mount` is the cgroup2 mount, None where this host has none to read.
    """

    slice_name: str
    mount: str | None
    user: bool

    @property
    def stem(self) -> str:
        """What all units' names begin with."""
        return self.slice_name.removesuffix(".slice")

    def service_slice(self, service: str) -> str:
        """The slice of all workers of one service."""
        return f"{self.stem}-{service}.slice"

    def unit(self, service: str, instance: str) -> str:
        """The unit of one worker."""
        return f"{self.stem}-{service}@{instance}.service"

    @property
    def units(self) -> str:
        """The pattern, see glob(7), of all workers' units, and of others: see names_of()."""
        return f"{self.stem}-*@*.service"

    def names_of(self, unit: str) -> tuple[str, str] | None:
        """The service and instance that a unit's name stands for; None for a foreign unit's.

        worker-a.slice lies in worker.slice, and the names of its units begin with worker-, too.
        """
        name = unit.removeprefix(f"{self.stem}-").removesuffix(".service")
        service, _, instance = name.partition("@")
        if unit != self.unit(service, instance):
            return None
        if not SERVICE.fullmatch(service) or not INSTANCE.fullmatch(instance):
            return None
        return service, instance

    def directory(self, control_group: str) -> str | None:
        """The directory of a unit's ControlGroup= property; None where it has none."""
        return f"{self.mount}{control_group}" if control_group and self.mount else None

    @property
    def control(self) -> str:
        """Where `systemctl set-property --runtime` keeps what it was told, see systemctl(1)."""
        return f"{runtime_dir()}/systemd/user.control" if self.user else SYSTEM_CONTROL


def runtime_dir() -> str:
    """The directory of the caller's own manager; XDG_RUNTIME_DIR is another user's after su(1)."""
    return f"/run/user/{os.geteuid()}"


def client_environment() -> dict[str, str]:
    """The environment of systemd's own programs: they find the manager, and speak English."""
    environment = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""}
    if os.path.isdir(runtime_dir()):
        environment["XDG_RUNTIME_DIR"] = runtime_dir()
    return environment
