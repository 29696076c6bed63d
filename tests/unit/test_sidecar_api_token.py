"""The file of the bearer token."""

import os
from pathlib import Path

import pytest

from worker_sidecar.api.token import TokenFile
from worker_sidecar.errors import InputError, RefusedError

FIRST, SECOND = "first-token-0123456789", "second-token-0123456789"


def written(path: Path, text: str | bytes = FIRST, mode: int = 0o600) -> Path:
    """A new file at `path`, as an editor or `mv` puts it there."""
    new = path.with_name("new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    new.chmod(mode)
    return new.rename(path)


def test_only_the_token_itself_is_right(tmp_path: Path) -> None:
    file = TokenFile(str(written(tmp_path / "token", FIRST + "\n")))
    assert file.allows(f"Bearer {FIRST}") and file.allows(f"bearer  {FIRST} ")
    for wrong in (
        "",
        "Bearer",
        "Bearer ",
        f"Basic {FIRST}",
        FIRST,
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}x",
        "Bearer ü",
        "Bearer \udcff",
        f"Bearer {FIRST.upper()}",
    ):
        assert not file.allows(wrong), wrong


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "token")
    file = TokenFile(str(path))
    written(path, SECOND)
    assert file.allows(f"Bearer {SECOND}") and not file.allows(f"Bearer {FIRST}")


@pytest.mark.parametrize("change", ["removed", "emptied", "opened to all"])
def test_a_file_that_became_unusable_lets_nobody_in_until_it_is_mended(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "token")
    file = TokenFile(str(path))
    if change == "removed":
        path.unlink()
    elif change == "emptied":
        written(path, "")
    else:
        path.chmod(0o644)
    for _ in range(3):
        assert not file.allows(f"Bearer {FIRST}") and not file.allows("Bearer ")
    assert len(caplog.records) == 1
    written(path, SECOND)
    assert file.allows(f"Bearer {SECOND}")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o644, 0o666])
def test_a_file_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "token", mode=mode)
    with pytest.raises(RefusedError, match=f"chmod 600 {path}"):
        TokenFile(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "token")
    os.chown(path, 65534, 65534)
    with pytest.raises(RefusedError, match="65534"):
        TokenFile(str(path))


@pytest.mark.parametrize(
    "text",
    ["", "\n", "short", "two words 0123456789", "x" * 5000, b"\xff" * 20, "umlaut-ü-0123456789"],
)
def test_what_is_no_token(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(InputError, match="openssl rand") as caught:
        TokenFile(str(written(tmp_path / "token", text)))
    assert "0123456789" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("fifo", "folder", "nothing"):
        with pytest.raises(InputError, match=name):
            TokenFile(str(tmp_path / name))
