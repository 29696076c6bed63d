"""Becomes a worker's command: joins its cgroup, leaves behind what it inherited, then runs it.

`python -I -S shim.py [OPTION ...] -- COMMAND [ARGUMENT ...] < ENVIRONMENT` prints the PID of the
command and exits 0 once the command runs, or prints one line to stderr and exits 1; then no
process is left. The command belongs to nobody (own session, double fork), so it outlives whoever
started it. ENVIRONMENT are strings NAME=value that each end in a NUL, and all that the command
gets. Few imports: it runs once per start.

    --output=FILE           appended to; standard output and error, never a pipe
    --cgroup=DIRECTORY      joined before anything else; the PID is noted on it
    --hold=DESCRIPTOR       an inherited lock, let go of once the command runs
    --user=UID:GID:GID,...  the last are supplementary groups; needs root
    --directory=DIRECTORY   the working directory, / without it
    --oom-score-adjust=N    0 without it
"""

import errno
import os
import resource
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes longer to import than all the rest
    from collections.abc import Callable
    from typing import NoReturn

    Options = dict[str, str]

NOFILE = 1024
"""Soft limit of open files a program expects; the caller may have raised its own."""

MAIN_PROCESS = "user.worker.main-process"
"""The extended attribute with the command's PID and start time (field 22 of /proc/PID/stat)."""

TRUSTED_MAIN_PROCESS = "trusted.worker.main-process"
"""The same, which only root can write: also where the cgroup is delegated."""


class _StartError(Exception):
    """What could not be done, in words, and why."""

    def __init__(self, what: str, error: OSError) -> None:
        reason = error.strerror or str(error)
        super().__init__(f"{what}: {reason}")


def run(options: "Options", environment: dict[bytes, bytes], argv: list[str]) -> tuple[int, str]:
    """Start `argv`. Returns its PID and "", or 0 and what went wrong."""
    # the pipe closes by itself when exec succeeds: nothing more in it than the PID is success
    receive, send = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        os.close(receive)
        _detach(send, options, environment, argv)
    os.close(send)
    with open(receive, encoding="utf-8", errors="surrogateescape") as report:
        pid, _, failure = report.read().partition("\n")
    os.waitpid(middle, 0)
    if not pid:
        return 0, "it was killed before it began"
    return (0, failure) if failure else (int(pid), "")


def _detach(
    send: int, options: "Options", environment: dict[bytes, bytes], argv: list[str]
) -> "NoReturn":
    """The middle process: leave the caller's session, start the command, go."""
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(send, f"{os.getpid()}\n".encode())
    try:
        _become(options, environment, argv)
    except _StartError as error:
        os.write(send, str(error).encode(errors="surrogateescape"))
    except Exception as error:
        os.write(send, f"{type(error).__name__}: {error}".encode(errors="surrogateescape"))
    os._exit(127)


def _become(options: "Options", environment: dict[bytes, bytes], argv: list[str]) -> "NoReturn":
    cgroup = options.get("cgroup")
    if cgroup is not None:
        _try(f"cgroup {cgroup}", _join, cgroup)
    user = options.get("user")
    _try(f"log {options['output']}", _redirect, options["output"], user)
    wanted = int(options.get("oom-score-adjust", "0"))
    _try(f"oom_score_adj {wanted}", _adjust_oom_score, wanted)
    _reset()
    if user is not None:
        _try(f"user {user.split(':')[0]}", _switch_user, user)
    directory = options.get("directory", "/")
    _try(f"working directory {directory}", os.chdir, directory)
    try:
        _execute(argv, environment)
    except OSError as error:
        raise _StartError(argv[0], _explained(argv[0], error)) from None


def _execute(argv: list[str], environment: dict[bytes, bytes]) -> "NoReturn":
    """As execvp(3), on the command's own PATH. Not os.execvpe, which imports a module: the
    worker's user may not be allowed to read ours.
    """
    program = os.fsencode(argv[0])
    if b"/" in program:
        os.execve(program, argv, environment)
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for directory in environment.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        try:
            os.execve((directory or b".") + b"/" + program, argv, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    raise failure


def _try(what: str, action: "Callable[..., object]", *arguments: object) -> None:
    try:
        action(*arguments)
    except OSError as error:
        raise _StartError(what, error) from None


def _explained(program: str, error: OSError) -> OSError:
    """exec's errors that mislead: of a script whose interpreter is missing, or that names none."""
    if error.errno == errno.ENOENT and os.path.exists(program):
        return OSError(error.errno, "its interpreter (the first line, or its loader) is not there")
    if error.errno == errno.ENOEXEC:
        return OSError(error.errno, "Exec format error; a script must begin with a #! line")
    return error


def _join(cgroup: str) -> None:
    """Move this process into `cgroup`; unbuffered, for a buffered write would hide the error."""
    descriptor = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
        began = stat.read().rpartition(") ")[2].split()[19]
    for name in (MAIN_PROCESS, TRUSTED_MAIN_PROCESS):
        try:
            os.setxattr(cgroup, name, f"{os.getpid()} {began}".encode())
        except OSError:  # before Linux 5.7 a cgroup keeps none
            continue


def _redirect(output: str, user: "str | None") -> None:
    """Input from nowhere, output to a file and never to a pipe that may fill or break."""
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    if user is not None:  # who cannot open the file cannot use /dev/stdout
        os.fchown(log, int(user.split(":")[0]), -1)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _reset() -> None:
    """What is inherited but not meant for the command: signals, umask, limit of open files."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = NOFILE if hard == resource.RLIM_INFINITY else min(NOFILE, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _adjust_oom_score(wanted: int) -> None:
    path = "/proc/self/oom_score_adj"
    with open(path, encoding="ascii") as file:
        inherited = int(file.read())
    if inherited == wanted:
        return
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(b"%d" % wanted)
    except PermissionError:
        # without root it cannot fall: what we inherited stays, unless it was asked for
        if wanted or inherited < 0:
            raise


def _switch_user(user: str) -> None:
    uid, gid, groups = user.split(":")
    os.setgroups([int(group) for group in groups.split(",") if group])
    os.setgid(int(gid))
    os.setuid(int(uid))


def _environment() -> dict[bytes, bytes]:
    content = sys.stdin.buffer.read()
    return dict(item.partition(b"=")[::2] for item in content.split(b"\0") if item)


def main(argv: list[str]) -> int:
    """The program."""
    end = argv.index("--")
    options = dict(item.removeprefix("--").partition("=")[::2] for item in argv[1:end])
    if "hold" in options:
        os.set_inheritable(int(options["hold"]), False)
    pid, failure = run(options, _environment(), argv[end + 1 :])
    if failure:
        sys.stderr.buffer.write(failure.encode(errors="surrogateescape") + b"\n")
        return 1
    print(pid)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
