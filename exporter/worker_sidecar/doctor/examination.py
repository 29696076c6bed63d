"""All checks, beside each other: one that hangs or breaks costs only its own findings."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial

from worker_exporter import log
from worker_exporter.web.thread import DaemonThread
from worker_sidecar import spec
from worker_sidecar.doctor import cgroups, managers, processes, workers
from worker_sidecar.doctor.context import Context, Host
from worker_sidecar.doctor.finding import Finding, problem, warning
from worker_sidecar.errors import SidecarError
from worker_sidecar.launch.site import Site

DEADLINE = 30.0
"""Seconds for all checks: longer than a driver, D-Bus or a Docker daemon gets by itself."""

Check = Callable[[Context], Iterable[Finding]]

CHECKS: tuple[tuple[str, Check], ...] = (
    ("cgroup2", cgroups.cgroup2),
    ("controllers", cgroups.controllers),
    ("delegation", cgroups.delegation),
    ("psi", cgroups.pressure),
    ("kernel", cgroups.kernel_files),
    ("systemd", managers.systemd),
    ("user manager", managers.user_manager),
    ("launcher", managers.launcher),
    ("docker", managers.docker_daemon),
    ("gpu", managers.gpus),
    ("nofile", processes.open_files),
    ("hidepid", processes.hidepid),
    ("workers.yaml", workers.declaration),
    ("workers", workers.running),
    ("api", workers.api_socket),
)
"""What is looked at, under the name of its findings, in the order in which people read it."""


def examine(
    site: Site,
    config_path: str | None,
    host: Host | None = None,
    checks: Sequence[tuple[str, Check]] = CHECKS,
    deadline: float = DEADLINE,
) -> Sequence[Finding]:
    """Look at `host` (this one), at workers.yaml where there is one, and at what runs at `site`.

    Raises nothing: what cannot be found out is a finding.
    """
    context = _context(site, config_path, host or Host())
    end = time.monotonic() + deadline
    asked = [(name, _begin(name, check, context)) for name, check in checks]
    return [found for name, future in asked for found in _result(name, future, end)]


def _context(site: Site, config_path: str | None, host: Host) -> Context:
    if config_path is None:
        return Context(site, host)
    try:
        return Context(site, host, spec.load(config_path), config_path)
    except SidecarError as error:
        faults = tuple(str(error).splitlines())
    except Exception as error:
        faults = (f"{config_path} cannot be read: {log.describe(error)['err']}",)
    return Context(site, host, None, config_path, faults)


def _begin(name: str, check: Check, context: Context) -> "Future[list[Finding]]":
    thread = DaemonThread(f"doctor {name}")
    future = thread.submit(partial(_findings, check, context))
    thread.close()
    return future


def _findings(check: Check, context: Context) -> list[Finding]:
    return list(check(context))


def _result(name: str, future: "Future[list[Finding]]", end: float) -> Sequence[Finding]:
    try:
        return future.result(max(0.0, end - time.monotonic()))
    except TimeoutError:
        says = "the check did not end: something on this host does not answer"
        return [problem(name, says, "look for processes in state D, and at journalctl -k")]
    except SidecarError as error:
        says = " ".join(str(error).split())
        return [problem(name, says, "mend that, and look again")]
    except Exception as error:
        said = log.describe(error)
        says = f"the check failed: {said['err']} at {said.get('where', 'an unknown place')}"
        return [warning(name, says, "report this as a bug of worker-sidecar")]
