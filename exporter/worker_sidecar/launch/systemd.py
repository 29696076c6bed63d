"""Workers as transient units of systemd, made by `systemd-run`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from worker_exporter.cgroup.identity import slice_path
from worker_sidecar.launch import stamp
from worker_sidecar.launch.launcher import (
    GRACE,
    INSTANCE,
    SERVICE,
    AlreadyRunningError,
    Launched,
    LaunchError,
    Limits,
    NotFoundError,
    WorkerSpec,
    check_names,
)

_ACCOUNTING = ("CPUAccounting=yes", "MemoryAccounting=yes", "IOAccounting=yes")
_NOT_LOADED = 5
"""Exit code of systemctl for a unit it does not know."""


class SystemdLauncher:
    """Runs each worker as `<stem>-<service>@<instance>.service` in `<stem>-<service>.slice`.

    `user` takes the caller's own manager instead of the system's. `mount` is where cgroup2 is.
    """

    def __init__(self, slice_name: str, mount: str, *, user: bool) -> None:
        self._slice = slice_name
        self._stem = slice_name.removesuffix(".slice")
        self._mount = mount
        self._user = user
        self._manager = ""
        if user:
            uid = os.getuid()
            self._manager = f"user.slice/user-{uid}.slice/user@{uid}.service/"

    @property
    def name(self) -> str:
        """See Launcher.name."""
        return "systemd --user" if self._user else "systemd"

    @property
    def directory(self) -> str:
        """See Launcher.directory."""
        return f"{self._mount}/{self._manager}{slice_path(self._slice)}"

    def start(self, spec: WorkerSpec) -> Launched:
        """See Launcher.start."""
        unit = self._unit(spec.service, spec.instance)
        self._clear_ended(unit, spec)
        self._account(spec.service)
        command = run_command(spec, self._slice, self._mount, user=self._user)
        done = self._run(command)
        if done.returncode:
            self._run(self._systemctl("reset-failed", unit))
            raise LaunchError(
                f"cannot start {spec.service}/{spec.instance}: {_last_line(done.stderr)}"
            )
        return self._launched(spec.service, spec.instance, True)

    def stop(self, service: str, instance: str, grace: float = GRACE) -> None:
        """See Launcher.stop. The grace is the one the unit was started with."""
        check_names(service, instance)
        unit = self._unit(service, instance)
        cgroup = self._value(unit, "ControlGroup")
        done = self._run(self._systemctl("stop", unit))
        if done.returncode == _NOT_LOADED:
            raise NotFoundError(f"no worker {service}/{instance}: there is no unit {unit}")
        if done.returncode:
            raise LaunchError(f"cannot stop {service}/{instance}: {_last_line(done.stderr)}")
        # a deliberate stop must not look like a failure, nor block the next start
        self._run(self._systemctl("reset-failed", unit))
        if cgroup and _populated(f"{self._mount}{cgroup}"):
            raise LaunchError(f"a process of {unit} does not end; it is stuck in the kernel")

    def list(self) -> Sequence[Launched]:
        """See Launcher.list."""
        pattern = f"{self._stem}-*@*.service"
        # not list-units: its lines hold descriptions, and those hold whatever somebody wrote
        done = self._run(
            self._systemctl("show", "--all", "--property=Id", "--property=ActiveState", pattern)
        )
        if done.returncode:
            raise LaunchError(f"cannot list the units of {self._slice}: {_last_line(done.stderr)}")
        found = []
        for block in done.stdout.split("\n\n"):
            unit = dict(line.partition("=")[::2] for line in block.splitlines())
            name = unit.get("Id", "").removesuffix(".service").removeprefix(f"{self._stem}-")
            service, _, instance = name.partition("@")
            # demo-a.slice is nested in demo.slice, and its units also begin with demo-
            if SERVICE.fullmatch(service) and INSTANCE.fullmatch(instance):
                found.append(self._launched(service, instance, unit["ActiveState"] == "active"))
        return sorted(found, key=lambda worker: (worker.service, worker.instance))

    def down(self, grace: float = GRACE) -> None:
        """See Launcher.down. Stopping the slice stops all that is in it."""
        units = [worker.unit for worker in self.list() if worker.unit]
        cgroup = self._value(self._slice, "ControlGroup")
        done = self._run(self._systemctl("stop", self._slice))
        if done.returncode not in (0, _NOT_LOADED):
            raise LaunchError(f"cannot stop {self._slice}: {_last_line(done.stderr)}")
        if units:
            self._run(self._systemctl("reset-failed", *units))
        self._forget_accounting()
        if cgroup and _populated(f"{self._mount}{cgroup}"):
            raise LaunchError(f"a process in {self._slice} does not end; it is stuck in the kernel")

    def _clear_ended(self, unit: str, spec: WorkerSpec) -> None:
        """A failed unit of the same name would block the start; a running one is an error."""
        state = self._value(unit, "ActiveState")
        if state in ("active", "activating", "reloading", "deactivating"):
            raise AlreadyRunningError(
                f"{spec.service}/{spec.instance} is already running: {unit} is {state}"
            )
        if state == "failed":
            self._run(self._systemctl("reset-failed", unit))

    def _account(self, service: str) -> None:
        """Keep the service's slice accounting also while none of its workers runs."""
        unit = f"{self._stem}-{service}.slice"
        self._run(self._systemctl("set-property", "--runtime", unit, *_ACCOUNTING))

    def _forget_accounting(self) -> None:
        """Remove the drop-ins that set-property wrote; `revert` would reload the manager."""
        control = f"{_runtime_dir()}/systemd/user.control"
        if not self._user:
            control = "/run/systemd/system.control"
        with suppress(OSError):
            for name in os.listdir(control):
                if name.startswith(f"{self._stem}-") and name.endswith(".slice.d"):
                    shutil.rmtree(f"{control}/{name}", ignore_errors=True)

    def _launched(self, service: str, instance: str, running: bool) -> Launched:
        unit = self._unit(service, instance)
        cgroup = f"{self._manager}{slice_path(f'{self._stem}-{service}.slice')}/{unit}"
        return Launched(service, instance, cgroup, unit, running)

    def _unit(self, service: str, instance: str) -> str:
        return f"{self._stem}-{service}@{instance}.service"

    def _value(self, unit: str, name: str) -> str:
        done = self._run(self._systemctl("show", f"--property={name}", "--value", unit))
        if done.returncode:
            raise LaunchError(f"systemd does not answer: {_last_line(done.stderr)}")
        return done.stdout.strip()

    def _systemctl(self, *words: str) -> Sequence[str]:
        return ["systemctl", *(["--user"] if self._user else []), *words]

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a client of systemd, out of reach of the terminal's Ctrl-C."""
        try:
            return subprocess.run(
                command,
                env=_client_env(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                start_new_session=True,
            )
        except OSError as error:
            raise LaunchError(f"cannot run {command[0]}: {error.strerror}") from error


def unavailable() -> str | None:
    """Why no transient unit can be made here, None when one can."""
    if not os.path.isdir("/run/systemd/system"):
        return "systemd does not run here"
    if shutil.which("systemd-run") is None:
        return "systemd-run is not installed"
    if os.geteuid() != 0 and not os.path.exists(f"{_runtime_dir()}/systemd/private"):
        return f"uid {os.geteuid()} has no user manager (loginctl enable-linger makes one)"
    return None


def run_command(spec: WorkerSpec, slice_name: str, mount: str, *, user: bool) -> list[str]:
    """The `systemd-run` command line that starts `spec` below `slice_name`."""
    stem = slice_name.removesuffix(".slice")
    program = shutil.which(spec.argv[0])
    if program is None:
        raise LaunchError(f"cannot start {spec.service}/{spec.instance}: no program {spec.argv[0]}")
    if "$" in program:
        raise LaunchError(f"the path {program} contains a $, which systemd would expand")
    return [
        "systemd-run",
        *(["--user"] if user else []),
        "--quiet",
        f"--unit={stem}-{spec.service}@{spec.instance}.service",
        f"--slice={stem}-{spec.service}.slice",
        f"--description=worker {spec.service}/{spec.instance}",
        "--service-type=exec",
        *(f"--property={setting}" for setting in (*_ACCOUNTING, "TasksAccounting=yes")),
        f"--property=TimeoutStopSec={GRACE:g}s",
        *_limit_properties(spec.limits),
        f"--property=ExecStartPre={_stamp_property(spec, mount)}",
        *(f"--setenv={name}={value}" for name, value in spec.env.items()),
        "--",
        program,
        # systemd expands $NAME in arguments; doubled it is a plain $ on every version
        *(argument.replace("$", "$$") for argument in spec.argv[1:]),
    ]


def _limit_properties(limits: Limits) -> list[str]:
    properties = []
    if limits.cpu_cores is not None:
        properties.append(f"CPUQuota={limits.cpu_cores * 100:g}%")
    if limits.memory_bytes is not None:
        properties += [f"MemoryMax={limits.memory_bytes}", "MemorySwapMax=0"]
    if limits.tasks is not None:
        properties.append(f"TasksMax={limits.tasks}")
    return [f"--property={setting}" for setting in properties]


def _stamp_property(spec: WorkerSpec, mount: str) -> str:
    """ExecStartPre that writes the metadata before the worker's first instruction.

    `-`: a worker without metadata is better than none; `+`: as the manager, whatever the worker's
    user; `:`: without expansion of $.
    """
    items = [f"{key}={value}" for key, value in spec.metadata.items()]
    words = [sys.executable, "-I", "-S", stamp.__file__, mount, *items]
    return "-+:" + " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """`word` in systemd's quotes, see systemd.service(5) "Command lines"."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _client_env() -> dict[str, str]:
    """The environment of systemctl --user, with its own XDG_RUNTIME_DIR also after su."""
    env = dict(os.environ)
    if os.geteuid() != 0:
        env["XDG_RUNTIME_DIR"] = _runtime_dir()
    return env


def _runtime_dir() -> str:
    return f"/run/user/{os.getuid()}"


def _populated(directory: str) -> bool:
    with suppress(OSError), open(f"{directory}/cgroup.events", encoding="utf-8") as events:
        return "populated 1" in events.read()
    return False


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no reason given"
