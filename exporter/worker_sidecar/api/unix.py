"""The API's Unix socket: never open to more than it should be, and never taken from another."""

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
from collections.abc import Iterator

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch.site import run_dir

MODE = 0o660
_BACKLOG = 128


@contextlib.contextmanager
def unix_socket(path: str, group: str | None) -> Iterator[socket.socket]:
    """A listening socket at `path`, mode 0660, of `group` (a name or a number; None: our own).

    At the end the path is gone. Raises RefusedError when another serves there, InputError when
    the socket cannot be made. What a killed server left is taken over.
    """
    gid = group_id(group)
    with locked(path):
        _remove_stale(path)
        listening = _bind(path, gid)
        ours = os.stat(path)
        try:
            yield listening
        finally:
            listening.close()
            _remove_if(path, ours)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Be the only one that serves at `path`: a lock on a file beside it, which the kernel gives
    back at our end however we end. Raises RefusedError.
    """
    _make_directory(os.path.dirname(path) or ".")
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(f"{path}.lock", flags, 0o600)
    except OSError as error:
        raise InputError(f"socket {path}: cannot lock {path}.lock: {error.strerror}") from None
    try:
        _lock(lock, path)
        yield
    finally:
        os.close(lock)


def group_id(group: str | None) -> int:
    """The gid of a group's name or number, -1 for None. Raises InputError."""
    if group is None:
        return -1
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InputError(f"socket group {group!r}: there is no such group on this host") from None


def _lock(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(path) from None


def _make_directory(directory: str) -> None:
    try:
        if not os.path.isdir(directory):
            os.makedirs(directory)
            os.chmod(directory, 0o755)
        elif os.path.abspath(directory) == run_dir() and os.stat(directory).st_uid == os.geteuid():
            # Made 0700 by a command before us: the socket's group must come through.
            os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) | 0o011)
    except OSError as error:
        raise InputError(f"socket directory {directory}: {error.strerror}") from None


def _remove_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise InputError(f"socket {path}: something else is there; remove it, or choose another")
    # Its server may know nothing of our lock: systemd, or another program.
    if _answers(path):
        raise _taken(path)
    _remove_if(path, status)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)


def _bind(path: str, gid: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # bind() gives the file the mode of the socket less the umask: ours alone until the end.
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(path)
    except OSError as error:
        listening.close()
        raise InputError(f"socket {path}: {error.strerror or error}") from None
    try:
        os.chown(path, -1, gid)
        os.chmod(path, MODE)
    except OSError as error:
        listening.close()
        os.unlink(path)
        raise InputError(f"socket {path}: cannot be given to gid {gid}: {error.strerror}") from None
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def _remove_if(path: str, status: os.stat_result) -> None:
    """Remove `path` if it is still what `status` tells of."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), status):
            os.unlink(path)


def _taken(path: str) -> RefusedError:
    return RefusedError(f"another server answers on {path}; end it first, or choose another socket")
