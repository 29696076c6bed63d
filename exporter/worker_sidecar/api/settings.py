"""What `worker-sidecar serve` was asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field

from worker_exporter.web.listen import Address
from worker_sidecar.launch.site import run_dir
from worker_sidecar.spec import Config

TELEMETRY = Address("", 10391)
"""Where the sidecar's own metrics and health are, and nothing else."""


def default_socket() -> str:
    """/run/worker-sidecar/api.sock for root, else in the user's own runtime directory."""
    return f"{run_dir()}/api.sock"


@dataclass(frozen=True, slots=True)
class Rates:
    """How much the API takes: requests a second and at once (`burst`), from one peer (a uid, or an
    address) and from all together; `simultaneous` requests that are being answered, and
    `connections` to each listening socket.
    """

    peer: float = 20.0
    peer_burst: int = 40
    total: float = 100.0
    total_burst: int = 200
    simultaneous: int = 64
    connections: int = 256


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """`load` reads workers.yaml; it is called at the start and at every SIGHUP, and may raise
    SidecarError. `slice_name`, `launcher` and `emergency` are those of control.open_control.

    `socket` is the path of the Unix socket, `group` the name or number of its group (None: the
    process's own); a socket that systemd passes goes first. `listen` are TCP addresses of the API,
    which need a `token_file`; `web_config` is a file in exporter-toolkit's format whose TLS holds
    for all TCP addresses. `telemetry` is the address of the metrics, None for none.
    """

    load: Callable[[], Config]
    slice_name: str | None = None
    launcher: str | None = None
    emergency: str | None = None
    socket: str = field(default_factory=default_socket)
    group: str | None = None
    listen: tuple[Address, ...] = ()
    token_file: str | None = None
    web_config: str | None = None
    telemetry: Address | None = TELEMETRY
    rates: Rates = field(default_factory=Rates)
