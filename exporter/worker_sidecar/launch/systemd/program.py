"""The program of a worker, and what has to be true before systemd is asked to run it."""

import os
import re
import shutil
import stat
import sys

from worker_sidecar.errors import InputError
from worker_sidecar.launch import secrets
from worker_sidecar.launch.account import Account, account_of
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.spawn import PATH
from worker_sidecar.launch.systemd.words import is_sent

_GLOB = re.compile(r"[*?\[\\]")


def check(spec: WorkerSpec) -> Account:
    """The account that the worker runs as, after a look at all that can be seen to be wrong.

    Raises InputError, or RefusedError for secrets that others can read and for a user that only
    root can start a worker as.
    """
    if spec.image is not None:
        raise InputError(f"{spec.name} has an image: Docker runs those, systemd does not")
    account = account_of(spec.user)
    if account.switch and account.name is None:
        raise InputError(f"uid {spec.user} has no account, and systemd starts nothing without one")
    for path in filter(None, (*spec.secrets.values(), spec.secret_env, spec.directory)):
        if not path.startswith("/") or not is_sent(path):
            raise InputError(f"{spec.name}: {path!r} is no absolute path that systemd takes")
    secrets.read(spec.secrets)
    if spec.secret_env is not None:
        if _GLOB.search(spec.secret_env):
            raise InputError(
                f"{spec.name}: secret_env {spec.secret_env}: systemd takes *, ?, [ and \\ in "
                "the name for a pattern; name the file else"
            )
        secrets.read({"secret_env": spec.secret_env})
    _check_directory(spec)
    return account


def path_of(spec: WorkerSpec) -> str:
    """The absolute path of the worker's program, looked for on the worker's own PATH.

    A path with a slash is taken from the working directory. Raises InputError when no program is
    there.
    """
    program = spec.argv[0]
    if "/" not in program:
        path = spec.environment.get("PATH", PATH)
        found = shutil.which(program, path=path)
        if found is None:
            raise InputError(f"{spec.name}: there is no program {program} on its PATH ({path})")
        return os.path.abspath(found)
    where = os.path.normpath(os.path.join(spec.directory or "/", program))
    try:
        found_mode = os.stat(where).st_mode
    except PermissionError:  # the worker's user may see more than we do
        return where
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{spec.name}: {program}: {reason}") from error
    if not stat.S_ISREG(found_mode) or not found_mode & 0o111:
        raise InputError(f"{spec.name}: {program} is not executable")
    return where


def interpreter(spec: WorkerSpec, account: Account) -> str:
    """A Python that the worker's user can run. Raises InputError when there is none.

    Not that of a virtual environment, which may lie in a directory of root's.
    """
    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        if os.access(candidate, os.X_OK) and (not account.switch or _everybody_can_run(candidate)):
            return candidate
    raise InputError(
        f"{spec.name}: a $ or ; in its command, or an LD_ variable, needs a Python that user "
        f"{spec.user} can run, and /usr/bin/python3 is none"
    )


def _everybody_can_run(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def _check_directory(spec: WorkerSpec) -> None:
    if spec.directory is None:
        return
    try:
        found = os.stat(spec.directory)
    except PermissionError:
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{spec.name}: working directory {spec.directory}: {reason}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{spec.name}: working directory {spec.directory}: Not a directory")
