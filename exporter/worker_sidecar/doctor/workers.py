"""What is declared, what runs, and where the API answers."""

import errno
import os
import socket
import stat
from collections.abc import Iterator

from worker_sidecar.doctor.context import Context
from worker_sidecar.doctor.finding import Finding, ok, problem, warning
from worker_sidecar.errors import PermissionDeniedError
from worker_sidecar.launch import best
from worker_sidecar.launch.launcher import Launcher

_PATIENCE = 2.0


def declaration(context: Context) -> Iterator[Finding]:
    """workers.yaml, and whether the slice is ours to write."""
    name = "workers.yaml"
    if context.config_path is None:
        yield ok(name, "there is none; nothing is declared")
        return
    for fault in context.faults:
        yield problem(name, fault, "mend the file; docs/workers-yaml.md has all keys")
    config = context.config
    if config is None:
        return
    services = len(config.services)
    yield ok(name, f"{context.config_path}: {services} services, {len(config.workers)} workers")
    try:
        config.ownership.check(context.site.slice_name)
    except PermissionDeniedError as error:
        yield problem("ownership", str(error), "name another slice, or a file that owns this one")


def running(context: Context) -> Iterator[Finding]:
    """Limits of living workers that do not hold: the cgroup files, read back."""
    name = "workers"
    alive = [status for status in _launcher(context).list() if status.alive]
    bad = [status for status in alive if status.unapplied]
    for status in bad:
        yield warning(
            name,
            f"{status.name}: its limits of {', '.join(status.unapplied)} do not hold",
            "mend what is said of controllers and delegation, then start it anew",
        )
    if not bad:
        yield ok(name, f"{len(alive)} run, and their limits hold" if alive else "none runs")


def api_socket(context: Context) -> Iterator[Finding]:
    """The Unix socket of `serve`: whether somebody answers, and who may ask."""
    name = "api"
    path = context.host.api_socket
    try:
        status = os.stat(path)
    except FileNotFoundError:
        yield ok(name, f"nobody serves: there is no {path}")
        return
    except PermissionError:
        yield ok(name, f"{path} is not ours to look at")
        return
    if not stat.S_ISSOCK(status.st_mode):
        yield problem(name, f"{path} is no socket; serve cannot use it", f"remove {path}")
        return
    if stat.S_IMODE(status.st_mode) & 0o002:
        says = f"everybody may use {path}, and so start and stop workers"
        yield problem(name, says, f"chmod o= {path}; a socket unit: SocketMode=0660")
    refused = _connect(path)
    if refused is None:
        yield ok(name, f"serve answers on {path}")
    elif refused in (errno.EACCES, errno.EPERM):
        yield ok(name, f"{path} is for others: {os.strerror(refused)}")
    else:
        says = f"nobody answers on {path}: {os.strerror(refused)}"
        yield warning(name, says, f"start worker-sidecar serve, which takes it over, or rm {path}")


def _launcher(context: Context) -> Launcher:
    return best.with_docker(best.choose(context.site).launcher, context.site)


def _connect(path: str) -> int | None:
    """The errno of a connection; None when it stands."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_PATIENCE)
        try:
            client.connect(path)
        except OSError as error:
            return error.errno or errno.ETIMEDOUT
    return None
