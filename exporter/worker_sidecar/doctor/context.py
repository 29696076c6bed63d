"""What is examined: a host, by the places where it tells of itself."""

import os
import pwd
import resource
from dataclasses import dataclass, field

from worker_sidecar.launch.best import docker_socket
from worker_sidecar.launch.site import Site, run_dir
from worker_sidecar.spec import Config


def _api_socket() -> str:
    return f"{run_dir()}/api.sock"


def _open_files() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


@dataclass(frozen=True, slots=True)
class Host:
    """Where to look. `uid` is whose sidecar it is, `open_files` its soft and hard RLIMIT_NOFILE."""

    procfs: str = "/proc"
    run: str = "/run"
    linger: str = "/var/lib/systemd/linger"
    api_socket: str = field(default_factory=_api_socket)
    docker_socket: str = field(default_factory=docker_socket)
    uid: int = field(default_factory=os.geteuid)
    open_files: tuple[int, int] = field(default_factory=_open_files)

    @property
    def user(self) -> str:
        """The name of `uid`, or the number where it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def systemd(self) -> bool:
        """Whether systemd is this host's init, see sd_booted(3)."""
        return os.path.isdir(f"{self.run}/systemd/system")


@dataclass(frozen=True, slots=True)
class Context:
    """All a check may look at. `config` is None without a workers.yaml, and with one that cannot
    be used, whose `faults` are then told.
    """

    site: Site
    host: Host
    config: Config | None = None
    config_path: str | None = None
    faults: tuple[str, ...] = ()
