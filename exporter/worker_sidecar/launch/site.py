"""Where on a host the sidecar launches workers, and keeps what does not outlive a boot."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """`slice_name` is the slice of all workers, `mount` the cgroup2 mount (None: there is none),
    `run_dir` for markers and secrets, gone at a reboot, `log_dir` for the output of workers that
    write to files. Directories are made when first needed, mode 0700.
    """

    slice_name: str
    mount: str | None
    run_dir: str
    log_dir: str


def run_dir() -> str:
    """/run/worker-sidecar for root, else a directory in the user's own runtime directory.

    systemd's RUNTIME_DIRECTORY, where set, goes first.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if os.geteuid() == 0:
        return "/run/worker-sidecar"
    home = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return f"{home}/worker-sidecar"


def log_dir() -> str:
    """/var/log/worker-sidecar for root, else below the user's XDG_STATE_HOME.

    systemd's LOGS_DIRECTORY, where set, goes first.
    """
    given = os.environ.get("LOGS_DIRECTORY", "").split(":")[0]
    if given:
        return given
    if os.geteuid() == 0:
        return "/var/log/worker-sidecar"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{state}/worker-sidecar/log"
