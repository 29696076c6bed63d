"""The C programs of the benchmark: built when their source is newer, spoken to over pipes."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support import end, follow_parent

from worker_exporter.errors import UserError

_SOURCES = Path(__file__).parent
BUILD = _SOURCES.parent / "build" / "bench"


class Helper:
    """A running program that answers each line on its standard input with one line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._requests, self._answers = process.stdin, process.stdout

    def ask(self) -> str:
        """Have it do its work once; what it says about it."""
        print(file=self._requests, flush=True)
        return self.hear()

    def hear(self) -> str:
        """The next line it says. Raises UserError when it ended instead."""
        line = self._answers.readline()
        if not line:
            raise UserError("a helper of the benchmark ended; its last words are above")
        return line.rstrip("\n")


@contextlib.contextmanager
def running_helper(name: str, lines: Iterable[str]) -> Iterator[Helper]:
    """The program `bench/<name>.c` with a file of `lines` as its argument, once it is ready.

    Raises UserError when it cannot be built or started.
    """
    program = _built(name)
    with tempfile.NamedTemporaryFile("w", prefix=f"{name}-") as listing:
        listing.writelines(f"{line}\n" for line in lines)
        listing.flush()
        process = subprocess.Popen(
            [program, listing.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=functools.partial(follow_parent, os.getpid()),
        )
        try:
            helper = Helper(process)
            helper.hear()
            yield helper
        finally:
            _finish(process)


def _finish(process: "subprocess.Popen[str]") -> None:
    """Let it end by itself, for it has children to end first."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        end(process)
    process.stdout.close()


def _built(name: str) -> str:
    source, program = _SOURCES / f"{name}.c", BUILD / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return str(program)
    compiler = shutil.which("cc")
    if compiler is None:
        raise UserError("cc is not installed; install a C compiler (apt-get install gcc libc6-dev)")
    BUILD.mkdir(parents=True, exist_ok=True)
    # Another process may look whether it is there.
    fresh = program.with_name(f"{name}.{os.getpid()}")
    made = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-std=gnu11", "-o", str(fresh), str(source)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise UserError(f"cc cannot build {source.name}: {made.stderr.strip()}")
    fresh.rename(program)
    return str(program)
