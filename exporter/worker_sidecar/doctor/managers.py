"""Who could start workers here: systemd, the user's own manager, Docker; and GPUs for them."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

from worker_sidecar import gpu
from worker_sidecar.doctor.context import Context
from worker_sidecar.doctor.finding import Finding, ok, problem, warning
from worker_sidecar.errors import InputOutputError, SidecarError
from worker_sidecar.launch import best, docker

_OLDEST = 247
"""The first systemd with LoadCredential=."""

_VERSION = re.compile(r"systemd (\d+)")
_PATIENCE = 10.0
_DRIVER_PATIENCE = 5.0


def systemd(context: Context) -> Iterator[Finding]:
    """Whether it is the init, and its version (systemctl --version)."""
    if not context.host.systemd:
        yield ok("systemd", "it does not run here; restart: in workers.yaml needs it, or Docker")
        return
    if shutil.which("systemd-run") is None or shutil.which("systemctl") is None:
        says = "it runs, but systemd-run and systemctl are not to be found"
        yield problem("systemd", says, "install the package systemd, and look at PATH")
        return
    said = subprocess.run(
        ["systemctl", "--version"], capture_output=True, text=True, timeout=_PATIENCE
    ).stdout
    match = _VERSION.match(said)
    if match is None:
        yield warning("systemd", "its version is unknown", "try systemctl --version")
    elif int(match[1]) < _OLDEST:
        says = f"version {match[1]}; secrets need {_OLDEST}"
        yield warning("systemd", says, f"use systemd {_OLDEST} or later")
    else:
        yield ok("systemd", f"version {match[1]}")


def user_manager(context: Context) -> Iterator[Finding]:
    """The systemd manager of a user that is not root, and whether it outlives the last session."""
    host = context.host
    if host.uid == 0 or not host.systemd:
        return
    if os.path.exists(f"{host.run}/user/{host.uid}/systemd/private"):
        yield ok("user manager", f"{host.user} has one")
    else:
        says = f"{host.user} has none; no worker can be started"
        yield problem("user manager", says, f"loginctl enable-linger {host.user}")
    if os.path.exists(f"{host.linger}/{host.user}"):
        yield ok("lingering", "workers stay when the last session ends")
    else:
        says = f"workers end with the last session of {host.user}"
        yield warning("lingering", says, f"loginctl enable-linger {host.user}")


def launcher(context: Context) -> Iterator[Finding]:
    """The launcher that is chosen when none is named."""
    choice = best.choose(context.site)
    says = f"{choice.launcher.name}: {choice.reason}"
    if choice.monitored:
        yield ok("launcher", says)
        return
    advice = "mend cgroup2, above; or be root, or have loginctl enable-linger make a user manager"
    yield problem("launcher", f"{says}; such workers are not monitored, nor limited", advice)


def docker_daemon(context: Context) -> Iterator[Finding]:
    """Whether a Docker daemon answers, and with which cgroup driver."""
    name = "docker"
    socket = context.host.docker_socket
    if not os.path.exists(socket):
        yield _not_needed(name, f"no daemon at {socket}", "install Docker", _has_images(context))
        return
    try:
        driver = docker.driver(socket)
    except SidecarError as error:
        advice = f"see systemctl status docker; may {context.host.user} use {socket}?"
        level = problem if _has_images(context) else warning
        yield level(name, str(error), advice)
        return
    if driver == "cgroupfs" and context.host.systemd:
        pattern = docker.pattern(context.site.slice_name)
        yield warning(
            name,
            f"{socket}: cgroup driver cgroupfs, beside systemd: containers are not in the slice",
            'put {"exec-opts": ["native.cgroupdriver=systemd"]} into /etc/docker/daemon.json, '
            f"or give the exporter --worker.pattern='{pattern}'",
        )
        return
    yield ok(name, f"{socket}: cgroup driver {driver}")


def gpus(context: Context) -> Iterator[Finding]:
    """What the GPU drivers say."""
    wanted = _wants_gpus(context)
    try:
        found = gpu.inventory(_DRIVER_PATIENCE)
    except gpu.NoDriverError as error:
        yield _not_needed("gpu", str(error), "install it, or leave gpu: away", wanted)
    except InputOutputError as error:
        advice = "try nvidia-smi; a driver that hangs needs a reboot"
        yield (problem if wanted else warning)("gpu", str(error), advice)
    else:
        listed = ", ".join(f"{each.index} ({each.name or 'nameless'})" for each in found)
        says = f"the drivers have {listed or 'no GPU'}"
        advice = "look at nvidia-smi, or leave gpu: away"
        yield ok("gpu", says) if found else _not_needed("gpu", says, advice, wanted)


def _not_needed(name: str, says: str, advice: str, needed: bool) -> Finding:
    """Something is absent, which matters only where workers.yaml needs it."""
    return problem(name, f"{says}; workers.yaml needs it", advice) if needed else ok(name, says)


def _has_images(context: Context) -> bool:
    workers = () if context.config is None else context.config.workers
    return any(declared.spec.image is not None for declared in workers)


def _wants_gpus(context: Context) -> bool:
    workers = () if context.config is None else context.config.workers
    return any(declared.spec.gpu is not None for declared in workers)
