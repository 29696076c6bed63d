"""Output as it comes, from files and from programs."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.launch import watch
from worker_sidecar.launch.launcher import LogStream
from worker_sidecar.launch.output import CommandLog, FileLog


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def readers() -> Iterator[list[threading.Thread]]:
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def everything(stream: LogStream) -> bytes:
    with closing(stream):
        return b"".join(iter(stream.read, b""))


def append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 5, b""),
        (b"a\n", 5, b"a\n"),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\nc\n", 3, b"a\nb\nc\n"),
        (b"a\nb\nc\n", 0, b""),
        (b"\n\n\n", 2, b"\n\n"),
        (b"no end", 1, b"no end"),
        (b"\xff\n\0\n", 1, b"\0\n"),
        (b"x" * 200_000 + b"\nlast\n", 2, b"x" * 200_000 + b"\nlast\n"),
        (b"first\n" + b"x" * 200_000 + b"\nlast\n", 2, b"x" * 200_000 + b"\nlast\n"),
    ],
)
def test_the_last_lines(log: Path, content: bytes, lines: int, expected: bytes) -> None:
    log.write_bytes(content)
    assert everything(FileLog(str(log), lines, follow=False)) == expected


@given(st.lists(st.sampled_from([b"", b"a", b"bc\xff"])), st.booleans(), st.integers(1, 9))
def test_the_last_lines_are_the_last_of_all(words: list[bytes], ended: bool, lines: int) -> None:
    whole = [word + b"\n" for word in words]
    if whole and not ended:
        whole[-1] = words[-1]
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(whole))
        file.flush()
        found = everything(FileLog(file.name, lines, follow=False))
    whole = [line for line in whole if line]
    assert found == b"".join(whole[-lines:])


def test_what_is_appended_is_followed(log: Path, readers: list[threading.Thread]) -> None:
    log.write_bytes(b"old\nlast\n")
    stream = FileLog(str(log), 1, follow=True)
    assert stream.read() == b"last\n"
    for piece in (b"one\n", b"two without end"):
        readers.append(threading.Timer(0.05, append, (log, piece)))
        readers[-1].start()
        assert stream.read() == piece
    stream.close()


def test_followers_wait_without_looking(log: Path) -> None:
    """Not a busy loop: next to no CPU while nothing is written."""
    log.write_bytes(b"")
    stream = FileLog(str(log), 1, follow=True)
    append(log, b"one\n")
    assert stream.read() == b"one\n"
    used: list[float] = []

    def read() -> None:
        before = time.thread_time()
        stream.read()
        used.append(time.thread_time() - before)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(0.5)
    stream.close()
    thread.join(20)
    assert used[0] < 0.1


def test_another_file_of_that_name_is_followed(log: Path) -> None:
    log.write_bytes(b"one\n")
    stream = FileLog(str(log), 5, follow=True)
    assert stream.read() == b"one\n"
    append(log, b"rest\n")
    os.rename(log, f"{log}.1")
    assert stream.read() == b"rest\n"
    timer = threading.Timer(0.05, log.write_bytes, (b"two\n",))
    timer.start()
    assert stream.read() == b"two\n"
    timer.join()
    timer = threading.Timer(0.05, append, (log, b"three\n"))
    timer.start()
    assert stream.read() == b"three\n"
    timer.join()
    stream.close()


def test_a_truncated_file_is_read_from_its_begin(log: Path) -> None:
    """logrotate's copytruncate."""
    log.write_bytes(b"a long line of the past\n")
    stream = FileLog(str(log), 5, follow=True)
    stream.read()
    log.write_bytes(b"new\n")
    assert stream.read() == b"new\n"
    append(log, b"more\n")
    assert stream.read() == b"more\n"
    stream.close()


def test_close_ends_a_read_that_waits(log: Path, readers: list[threading.Thread]) -> None:
    log.write_bytes(b"")
    before = os.listdir("/proc/self/fd")
    stream = FileLog(str(log), 5, follow=True)
    found: list[bytes] = []
    readers.append(threading.Thread(target=lambda: found.append(stream.read())))
    readers[0].start()
    readers[0].join(0.1)
    assert found == []
    stream.close()
    readers[0].join(20)
    assert found == [b""]
    assert stream.read() == b""
    stream.close()
    assert os.listdir("/proc/self/fd") == before


def test_without_inotify_it_looks_again(
    log: Path, monkeypatch: pytest.MonkeyPatch, readers: list[threading.Thread]
) -> None:
    """A user's watches can be used up."""
    monkeypatch.setattr(watch, "_LOOK_AGAIN", 0.05)
    monkeypatch.setattr(watch.FileWatch, "_add", lambda *_: -1)
    log.write_bytes(b"")
    stream = FileLog(str(log), 5, follow=True)
    readers.append(threading.Timer(0.1, append, (log, b"there\n")))
    readers[0].start()
    assert stream.read() == b"there\n"
    stream.close()


def test_a_file_that_cannot_be_read_says_so(log: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLog(str(log), 5, follow=False)
    log.symlink_to("/etc/passwd")
    with pytest.raises(InputOutputError, match=f"cannot read the log {log}: Too many levels"):
        FileLog(str(log), 5, follow=False)
    with pytest.raises(InputError, match="-1 lines"):
        FileLog(str(log), -1, follow=False)


def test_what_a_program_writes() -> None:
    stream = CommandLog(["sh", "-c", 'echo "$SAID"; echo noise >&2'], {"SAID": "it"})
    assert everything(stream) == b"it\n"


def test_close_ends_a_program_and_its_children(readers: list[threading.Thread]) -> None:
    """A child would hold the pipe open."""
    code = "import os, time; os.fork() and print(os.getpid(), flush=True); time.sleep(1000)"
    stream = CommandLog([sys.executable, "-c", code], {})
    pid = int(stream.read())
    found: list[bytes] = []
    readers.append(threading.Thread(target=lambda: found.append(stream.read())))
    readers[0].start()
    readers[0].join(0.1)
    assert found == []
    stream.close()
    readers[0].join(20)
    assert found == [b""]
    assert not os.path.exists(f"/proc/{pid}")
    assert stream.read() == b""
    stream.close()


def test_a_program_that_fails_says_why() -> None:
    stream = CommandLog(["sh", "-c", "echo some; echo the reason >&2; exit 3"], {})
    assert stream.read() == b"some\n"
    with pytest.raises(InputOutputError, match="sh failed: the reason"):
        stream.read()
    stream.close()


def test_a_program_that_is_not_there_says_so() -> None:
    with pytest.raises(InputOutputError, match="cannot run no_such_program: No such file"):
        CommandLog(["no_such_program"], {})
