"""Starts a worker's command by the shim: what plain cgroups and detached workers share."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from worker_sidecar.errors import CreationFailedError, InputError
from worker_sidecar.launch import secrets, shim
from worker_sidecar.launch.account import Account, account_of
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SHIM = (sys.executable, "-I", "-S", shim.__file__)


@dataclass(frozen=True, slots=True)
class Start:
    """A command that was found fit to be started. `log` is the file its output goes to,
    `credentials` the directory of its secrets.
    """

    spec: WorkerSpec
    account: Account
    log: str
    credentials: str
    contents: Mapping[str, bytes]
    secret_env: Mapping[str, str]
    marks: Mapping[str, str]

    @property
    def environment(self) -> Mapping[str, str]:
        """What the command gets, but for secret_env."""
        given = {"PATH": PATH, **self.account.environment}
        if self.contents:
            given["CREDENTIALS_DIRECTORY"] = self.credentials
        return {**given, **self.spec.environment, **self.marks}


def prepare(spec: WorkerSpec, site: Site, marks: Mapping[str, str] | None = None) -> Start:
    """Look at all that can be wrong with a command before anything is made.

    `marks` are further variables of its environment. Raises InputError or RefusedError.
    """
    account = account_of(spec.user)
    start = Start(
        spec,
        account,
        log_file(site, spec.service, spec.instance),
        credentials(site, spec.service, spec.instance),
        secrets.read(spec.secrets),
        secrets.read_environment(spec.secret_env),
        marks or {},
    )
    _check_directory(spec)
    _check_program(spec, start.environment["PATH"])
    return start


def log_file(site: Site, service: str, instance: str) -> str:
    """The output of a worker's last run; that of the run before is in `<this>.1`."""
    return f"{site.log_dir}/{service}/{instance}.log"


def credentials(site: Site, service: str, instance: str) -> str:
    """The directory of a worker's secrets."""
    return f"{site.run_dir}/secrets/{service}@{instance}"


def spawn(start: Start, hold: int, cgroup: str | None) -> int:
    """Start the command, in `cgroup` if any; the shim keeps the lock `hold` until it runs.

    Returns its PID. Raises CreationFailedError, after which neither process nor secrets are left
    and the log is again the one of the run before.
    """
    name = start.spec.name
    secrets.place(start.credentials, start.contents, start.account)
    try:
        secrets.check_way(start.credentials, start.account)
        rotated = _new_log(start.log)
    except OSError as error:
        secrets.remove(start.credentials)
        raise CreationFailedError(
            f"cannot start {name}: log {start.log}: {error.strerror}"
        ) from error
    except BaseException:
        secrets.remove(start.credentials)
        raise
    try:
        return _run(start, hold, cgroup)
    except BaseException:
        secrets.remove(start.credentials)
        _old_log(start.log, rotated)
        raise


def command_lines(start: Start, cgroup: str | None) -> Sequence[str]:
    """The shell lines that do by hand what spawn() does."""
    spec = start.spec
    lines = []
    if spec.secrets:
        quoted = shlex.quote(start.credentials)
        lines.append(f"install -d -m 0700 {quoted}")
        for name, path in spec.secrets.items():
            lines.append(
                f"install -m 0400 {shlex.quote(path)} {shlex.quote(f'{start.credentials}/{name}')}"
            )
        if start.account.switch:
            uid, gid = start.account.uid, start.account.gid
            lines.append(f"chown {uid}:{gid} {quoted}/*")
            lines.append(f"chgrp {gid} {quoted} && chmod 0750 {quoted}")
    lines.append(f"mkdir -p {shlex.quote(os.path.dirname(start.log))}")
    given = " ".join(shlex.quote(f"{name}={value}") for name, value in start.environment.items())
    variables = f"printf '%s\\0' {given}"
    if spec.secret_env is not None:
        secret = f"grep '^[A-Za-z_]' {shlex.quote(spec.secret_env)} | tr '\\n' '\\0'"
        variables = f"{{ {variables}; {secret}; }}"
    shim_line = shlex.join([*_SHIM, *_options(start, cgroup), "--", *spec.argv])
    return [*lines, f"{variables} | {shim_line}"]


def _options(start: Start, cgroup: str | None) -> Sequence[str]:
    spec, account = start.spec, start.account
    options = [f"--output={start.log}"]
    if cgroup is not None:
        options.append(f"--cgroup={cgroup}")
    if account.switch:
        groups = ",".join(map(str, account.groups))
        options.append(f"--user={account.uid}:{account.gid}:{groups}")
    if spec.directory is not None:
        options.append(f"--directory={spec.directory}")
    if spec.oom_score_adjust:
        options.append(f"--oom-score-adjust={spec.oom_score_adjust}")
    return options


def _run(start: Start, hold: int, cgroup: str | None) -> int:
    name = start.spec.name
    variables = {**start.environment, **start.secret_env}
    given = b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in variables.items())
    command = [*_SHIM, f"--hold={hold}", *_options(start, cgroup), "--", *start.spec.argv]
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            env={},
            start_new_session=True,
            cwd="/",
            pass_fds=(hold,),
        )
    except OSError as error:
        raise CreationFailedError(f"cannot start {name}: {error.strerror}") from error
    if done.returncode:
        said = os.fsdecode(done.stderr).strip().rpartition("\n")[2]
        raise CreationFailedError(f"cannot start {name}: {said or f'exit code {done.returncode}'}")
    return int(done.stdout)


def _new_log(path: str) -> bool:
    """Move the output of the last run away, to the one name kept for it. Whether there was any."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.rename(path, f"{path}.1")
    except FileNotFoundError:
        return False
    return True


def _old_log(path: str, rotated: bool) -> None:
    with suppress(OSError):
        if rotated:
            os.rename(f"{path}.1", path)
        else:
            os.unlink(path)


def _check_directory(spec: WorkerSpec) -> None:
    if spec.directory is None:
        return
    try:
        found = os.stat(spec.directory)
    except PermissionError:  # the worker's user may see more than we do
        return
    except OSError as error:
        raise InputError(
            f"{spec.name}: working directory {spec.directory}: {error.strerror}"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{spec.name}: working directory {spec.directory}: Not a directory")


def _check_program(spec: WorkerSpec, path: str) -> None:
    """What exec would say of the program, as far as it can be told beforehand."""
    program = spec.argv[0]
    if "/" not in program:
        if shutil.which(program, path=path) is None:
            raise InputError(f"{spec.name}: there is no program {program} on its PATH ({path})")
        return
    where = os.path.join(spec.directory or "/", program)
    try:
        found = os.stat(where)
    except PermissionError:
        return
    except OSError as error:
        raise InputError(f"{spec.name}: {program}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
        raise InputError(f"{spec.name}: {program} is not executable")
