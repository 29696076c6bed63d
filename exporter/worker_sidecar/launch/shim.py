"""Starts a command inside a cgroup: the process joins first and then becomes the command.

`python -I -S shim.py CGROUP_DIRECTORY OUTPUT_FILE COMMAND [ARGUMENT ...]` prints the PID of the
command and exits 0 once the command runs, or prints one line to stderr and exits 1. The command
belongs to nobody (double fork, own session), so it outlives whoever started it. Few imports: it
runs once per start.
"""

import os
import resource
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes longer to import than all the rest
    from typing import NoReturn

NOFILE = 1024
"""Soft limit of open files a program expects; the caller may have raised its own."""


def run(cgroup: str, output: str, argv: list[str]) -> int:
    """Start `argv` in `cgroup` with its output appended to `output`. Returns its PID.

    Raises OSError, with what failed in its `filename`, after which no process is left.
    """
    # the pipe closes by itself when exec succeeds: nothing more in it than the PID is success
    receive, send = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        os.close(receive)
        _detach(send, cgroup, output, argv)
    os.close(send)
    with open(receive, encoding="utf-8", errors="surrogateescape") as report:
        lines = report.read().split("\n", 2)
    os.waitpid(middle, 0)
    if len(lines) == 2:
        return int(lines[0])
    raise OSError(int(lines[1]), os.strerror(int(lines[1])), lines[2])


def _detach(send: int, cgroup: str, output: str, argv: list[str]) -> "NoReturn":
    """The middle process: leave the caller's session, start the command, go."""
    os.setsid()
    pid = os.fork()
    if pid:
        os._exit(0)
    os.write(send, f"{os.getpid()}\n".encode())
    what = cgroup
    try:
        _join(cgroup)
        what = output
        _redirect(output)
        what = argv[0]
        _reset()
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(send, f"{error.errno}\n{what}".encode(errors="surrogateescape"))
    os._exit(127)


def _join(cgroup: str) -> None:
    """Move this process into `cgroup`; unbuffered, for a buffered write would hide the error."""
    descriptor = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def _redirect(output: str) -> None:
    """Input from nowhere, output to a file and never to a pipe that may fill or break."""
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _reset() -> None:
    """What is inherited but not meant for the command: signals, umask, file limit, OOM score."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(NOFILE, hard), hard))
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as score:
        if int(score.read()) < 0:
            score.seek(0)
            score.write("0")
    os.chdir("/")


def main(argv: list[str]) -> int:
    """The program."""
    try:
        pid = run(argv[1], argv[2], argv[3:])
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(pid)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
