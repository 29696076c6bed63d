"""Secrets that no service manager holds: what is read of them, and where they are put."""

import os
import stat
from pathlib import Path

import pytest
from tests.support import open_to_all

from worker_sidecar.errors import CreationFailedError, InputError, RefusedError
from worker_sidecar.launch import secrets
from worker_sidecar.launch.account import Account, account_of

SELF = Account(os.geteuid(), os.getegid(), (), switch=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"hunter2\0\xff\n")
    path.chmod(0o600)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_contents_are_read_as_they_are(file: Path) -> None:
    assert secrets.read({"a.b-c_1": str(file)}) == {"a.b-c_1": b"hunter2\0\xff\n"}
    assert secrets.read({}) == {}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "ä", "a\n", "a" * 256])
def test_names_that_cannot_be(file: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name of a file"):
        secrets.read({name: str(file)})


@pytest.mark.parametrize("bits", [0o604, 0o644, 0o444])
def test_what_everybody_can_read_is_refused(file: Path, bits: int) -> None:
    file.chmod(bits)
    with pytest.raises(RefusedError, match="can be read by everybody: chmod o-rwx"):
        secrets.read({"a": str(file)})
    with pytest.raises(RefusedError, match="can be read by everybody: chmod o-rwx"):
        secrets.read_environment(str(file))


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        secrets.read({"a": str(tmp_path / "gone")})
    with pytest.raises(InputError, match="null byte"):
        secrets.read({"a": "a\0"})
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(InputError, match="is no file"):
        secrets.read({"a": str(tmp_path / "fifo")})
    file.write_bytes(b"x" * (secrets.LARGEST + 1))
    with pytest.raises(InputError, match="larger than"):
        secrets.read({"a": str(file)})


def test_an_environment_is_taken_as_written(file: Path) -> None:
    file.write_bytes(b'# no\n\nA=b c\n_X="q"=\\n$HOME \nE=\nB=\xff\n  \n')
    assert secrets.read_environment(str(file)) == {
        "A": "b c",
        "_X": '"q"=\\n$HOME ',
        "E": "",
        "B": "\udcff",
    }
    assert secrets.read_environment(None) == {}


@pytest.mark.parametrize(
    "line", ["hunter2", "1A=hunter2", "A B=hunter2", "=hunter2", "A=hunter2\0"]
)
def test_a_bad_line_is_named_but_not_shown(file: Path, line: str) -> None:
    file.write_text(f"A=b\n{line}\n")
    with pytest.raises(InputError, match=f"line 2 of {file} is not NAME=value") as caught:
        secrets.read_environment(str(file))
    assert "hunter2" not in str(caught.value)


def test_they_are_put_where_only_the_owner_looks(tmp_path: Path) -> None:
    directory = tmp_path / "run/secrets/llm@1"
    secrets.place(str(directory), {"a": b"1", "b": b"2"}, SELF)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"a": b"1", "b": b"2"}
    assert {mode(path) for path in directory.iterdir()} == {0o400}
    assert [mode(path) for path in (directory, *directory.parents[:2])] == [0o700] * 3
    secrets.place(str(directory), {"c": b"3"}, SELF)
    assert os.listdir(directory) == ["c"]
    secrets.place(str(directory), {}, SELF)
    assert not directory.exists()
    secrets.remove(str(directory))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_user_can_pass_through_but_not_look(tmp_path: Path) -> None:
    open_to_all(tmp_path)
    directory = tmp_path / "worker-sidecar/x.slice/secrets/llm@1"
    (tmp_path / "worker-sidecar").mkdir(mode=0o700)
    owner = account_of("nobody")
    secrets.place(str(directory), {"a": b"1"}, owner)
    secrets.check_way(str(directory), owner)
    above = [mode(path) for path in directory.parents[:3]]
    assert above == [0o711] * 3
    # not the owner's: root would remove what he makes in there, however deep
    assert (directory.stat().st_uid, directory.stat().st_gid) == (0, owner.gid)
    assert mode(directory) == 0o750
    assert ((directory / "a").stat().st_uid, mode(directory / "a")) == (owner.uid, 0o400)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_way_that_is_closed_is_named(tmp_path: Path) -> None:
    """It is not ours to open."""
    open_to_all(tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    directory = closed / "below/run/secrets/llm@1"
    secrets.place(str(directory), {"a": b"1"}, account_of("nobody"))
    with pytest.raises(
        CreationFailedError, match=f"user nobody could not .*: chmod o\\+x {closed}"
    ):
        secrets.check_way(str(directory), account_of("nobody"))
    assert mode(closed) == 0o700
    secrets.check_way(str(directory), account_of("root"))
