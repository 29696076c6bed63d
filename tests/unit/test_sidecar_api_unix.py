"""The Unix socket: whose it is, what is there before it, and what stays after it."""

import grp
import os
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from worker_sidecar.api import unix
from worker_sidecar.api.unix import unix_socket
from worker_sidecar.errors import InputError, RefusedError

ROOT = os.geteuid() == 0

SERVER = """
import sys
from worker_sidecar.api.unix import unix_socket
with unix_socket(sys.argv[1], None):
    print("listening", flush=True)
    sys.stdin.read()
"""


def mode(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "api.sock")


@pytest.fixture
def killed(path: str) -> str:
    """The path of a server that ended by SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"listening\n"
    finally:
        process.kill()
        process.communicate()
    assert os.path.exists(path) and not connects(path)
    return path


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_its_mode_is_0660_whatever_the_umask(path: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        with unix_socket(path, None):
            assert mode(path) == 0o660
            assert mode(f"{path}.lock") & 0o177 == 0
    finally:
        os.umask(before)


def test_it_is_never_wider_open(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    chown = os.chown

    def looking(*arguments: object) -> None:
        seen.append(mode(path))
        chown(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "chown", looking)
    before = os.umask(0)
    try:
        with unix_socket(path, None):
            assert seen == [0o600]
    finally:
        os.umask(before)


@pytest.mark.skipif(not ROOT, reason="only root can give a file to any group")
@pytest.mark.parametrize("group", [grp.getgrgid(os.getgid()).gr_name, "4711"])
def test_its_group_is_the_one_named(path: str, group: str) -> None:
    with unix_socket(path, group):
        wanted = 4711 if group == "4711" else os.getgid()
        assert (os.stat(path).st_gid, mode(path)) == (wanted, 0o660)


def test_a_group_that_is_not_there(path: str) -> None:
    with pytest.raises(InputError, match="no-such-group"), unix_socket(path, "no-such-group"):
        pass
    assert not os.path.exists(path)


def test_it_is_gone_afterwards_also_after_a_failure(path: str) -> None:
    with pytest.raises(ZeroDivisionError), unix_socket(path, None):
        assert connects(path)
        raise ZeroDivisionError
    assert not os.path.exists(path)
    with unix_socket(path, None):
        assert connects(path)


def test_a_second_server_is_refused_and_takes_nothing(path: str) -> None:
    with unix_socket(path, None) as listening:
        for _ in range(2):
            with pytest.raises(RefusedError, match="another server"), unix_socket(path, None):
                pass
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        listening.setblocking(True)
        listening.accept()[0].close()
        client.close()


def test_a_server_that_does_not_listen_yet_is_not_overtaken(path: str) -> None:
    with unix_socket(path, None):
        os.unlink(path)
        with pytest.raises(RefusedError, match="another server"), unix_socket(path, None):
            pass
    with unix_socket(path, None):
        assert connects(path)


def test_what_a_killed_server_left_is_taken_over(killed: str) -> None:
    with unix_socket(killed, None):
        assert connects(killed) and mode(killed) == 0o660


def test_a_server_that_knows_nothing_of_our_lock_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        with pytest.raises(RefusedError), unix_socket(path, None):
            pass
        # Also one that is too busy to accept.
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect_ex(path)
            with pytest.raises(RefusedError), unix_socket(path, None):
                pass
        assert os.path.exists(path)


def test_a_socket_that_another_put_in_its_place_is_not_removed(path: str) -> None:
    with unix_socket(path, None), socket.socket(socket.AF_UNIX) as other:
        os.unlink(path)
        other.bind(path)
    assert os.path.exists(path)


def test_what_is_no_socket_is_not_removed(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(InputError, match="something else"), unix_socket(path, None):
        pass
    assert Path(path).read_text() == "precious"


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long"), unix_socket(f"{tmp_path}/{'a' * 120}", None):
        pass


def test_its_directory_is_made_and_open_for_its_group(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "deep" / "api.sock")
    with unix_socket(path, None):
        assert mode(os.path.dirname(path)) & 0o011 == 0o011


def test_our_own_run_directory_is_opened_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir(mode=0o700)
    monkeypatch.setattr(unix, "run_dir", lambda: str(tmp_path / "ours"))
    for name, wanted in (("ours", 0o711), ("theirs", 0o700)):
        with unix_socket(str(tmp_path / name / "api.sock"), None):
            assert mode(str(tmp_path / name)) == wanted
