"""Probes by a command, with real processes."""

import asyncio
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.tools import missing

from worker_sidecar.health import command as module
from worker_sidecar.health.answer import Answer
from worker_sidecar.health.command import Command, CommandProbe

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

FAMILY = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"])
with open(sys.argv[1], "w") as told:
    print(os.getpid(), child.pid, file=told)
if sys.argv[2] == "stay":
    child.wait()
"""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code, *arguments)


def drive(
    command: Command, scenario: Callable[[CommandProbe], Awaitable[None]] | None = None
) -> Answer | None:
    """Run `scenario`, or ask once."""

    async def run() -> Answer | None:
        probe = CommandProbe(command, "llm/8080")
        try:
            async with asyncio.timeout(PATIENCE):
                if scenario is None:
                    return await probe.ask(PATIENCE)
                await scenario(probe)
                return None
        finally:
            probe.close()

    return asyncio.run(run())


def say(path: Path, expression: str) -> Command:
    """A command that writes the value of a Python expression to a file."""
    code = f"import os, sys; open({str(path)!r}, 'w').write(str({expression}))"
    return Command(python(code))


def ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that its new parent will reap; waits for it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(PATIENCE * 1000))
    finally:
        os.close(pidfd)


def family(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("pass", Answer("ready", "exit code 0")),
        ("raise SystemExit(1)", Answer("not_ready", "exit code 1")),
        ("raise SystemExit(77)", Answer("not_ready", "exit code 77")),
        ("import os; os.kill(os.getpid(), 9)", Answer("not_ready", "killed by SIGKILL")),
    ],
)
def test_the_exit_code_is_the_answer(code: str, answer: Answer) -> None:
    assert drive(Command(python(code))) == answer


def test_a_signal_without_a_name() -> None:
    answer = drive(Command(python("import os; os.kill(os.getpid(), 40)")))
    assert answer == Answer("not_ready", "killed by signal 40")


@pytest.mark.parametrize("argv", [("/no/such/program",), ("no-such-program", "-x"), ("/etc",)])
def test_what_cannot_be_run_is_an_error(argv: tuple[str, ...]) -> None:
    answer = drive(Command(argv))
    assert answer is not None
    assert answer.result == "error"
    assert argv[0] in answer.reason


def test_a_directory_that_is_not_there_is_an_error() -> None:
    answer = drive(Command(("true",), directory="/no/such/directory"))
    assert answer is not None
    assert answer.result == "error"


def test_there_is_no_shell(tmp_path: Path) -> None:
    answer = drive(Command(("echo", f"$(touch {tmp_path}/made)", ";", "touch", f"{tmp_path}/made")))
    assert answer == Answer("ready", "exit code 0")
    assert list(tmp_path.iterdir()) == []


def test_a_session_of_its_own_nothing_to_read_nothing_to_write(tmp_path: Path) -> None:
    told = tmp_path / "told"
    drive(
        say(
            told,
            "(os.getsid(0) == os.getpid(), *(os.readlink(f'/proc/self/fd/{n}') "
            "for n in (0, 1, 2)), len(os.listdir('/proc/self/fd')))",
        )
    )
    # its three, the file it writes, and the directory it lists
    assert told.read_text() == str((True, *("/dev/null",) * 3, 5))


def test_environment_and_directory_are_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SIDECAR", "1")
    told = tmp_path / "told"
    command = say(told, "(sorted(os.environ), os.environ['MODEL'], os.getcwd())")
    drive(Command(command.argv, env=(("MODEL", "llama"),), directory=str(tmp_path)))
    names, model, directory = eval(told.read_text())
    assert set(names) <= {"MODEL", "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LC_CTYPE"}
    assert (model, directory) == ("llama", str(tmp_path))


@pytest.mark.parametrize(
    ("user", "ids", "home"),
    [
        ("nobody", "65534 65534 65534", "/nonexistent"),
        ("65534", "65534 65534 65534", "/nonexistent"),
        ("12345", "12345 12345 12345", ""),
    ],
)
def test_it_runs_as_the_workers_user(user: str, ids: str, home: str) -> None:
    if os.geteuid() != 0:
        missing("root, to become another user,")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        told = Path(directory, "told")
        told.parent.chmod(0o777)
        script = 'echo $(id -u) $(id -g) $(id -G) > "$1"; echo "$HOME" >> "$1"'
        drive(Command(("sh", "-c", script, "sh", str(told)), user=user))
        assert told.read_text() == f"{ids}\n{home}\n"


def test_a_user_that_is_not_there_is_an_error() -> None:
    if os.geteuid() != 0:
        missing("root, to become another user,")
    answer = drive(Command(("true",), user="nobody_of_that_name"))
    assert answer == Answer(
        "error", "true cannot be run: there is no user 'nobody_of_that_name' on this host"
    )


@pytest.mark.parametrize("manner", ["stay", "leave"])
def test_nothing_is_left_of_it(tmp_path: Path, manner: str) -> None:
    told = tmp_path / "told"

    async def scenario(probe: CommandProbe) -> None:
        if manner == "leave":
            assert (await probe.ask(PATIENCE)).ready
            return
        while not told.exists() or not told.read_text():
            with pytest.raises(TimeoutError):
                await probe.ask(0.5)

    drive(Command(python(FAMILY, str(told), manner)), scenario)
    assert all(ended(pid) for pid in family(told))


def test_closing_kills_what_runs(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)

    async def scenario(probe: CommandProbe) -> None:
        asking = asyncio.create_task(probe.ask(1000.0))
        pids.extend(await asyncio.to_thread(family, told))
        asking.cancel()

    pids: list[int] = []
    drive(Command(python(FAMILY, str(told), "stay")), scenario)
    assert len(pids) == 2
    assert all(ended(pid) for pid in pids)


def test_never_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the kernel does not let go of the process that was killed."""
    let_go = threading.Event()
    end = module._end

    def slow_end(process: "subprocess.Popen[bytes]") -> int:
        assert let_go.wait(PATIENCE)
        return end(process)

    monkeypatch.setattr(module, "_end", slow_end)
    count = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"

    async def scenario(probe: CommandProbe) -> None:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await probe.ask(0.2)
        let_go.set()
        while not (await probe.ask(PATIENCE)).ready:
            pass

    drive(Command(python(count)), scenario)
    assert (tmp_path / "runs").read_text() == "xx"
