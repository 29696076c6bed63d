"""The lock of a worker's name: one holder, also while its directory comes and goes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker_sidecar.errors import InputOutputError
from worker_sidecar.launch.docker.lock import locked
from worker_sidecar.launch.site import Site


def site(folder: Path) -> Site:
    return Site("w.slice", None, str(folder / "run"), str(folder))


def test_many_take_turns_and_leave_nothing(tmp_path: Path) -> None:
    holders: list[int] = []
    most = 0

    def hold(number: int) -> None:
        nonlocal most
        for _ in range(50):
            with locked(site(tmp_path), "llm", "1"):
                holders.append(number)
                most = max(most, len(holders))
                holders.remove(number)

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(hold, range(10)))
    assert most == 1
    assert os.listdir(tmp_path / "run/docker") == []


def test_names_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with locked(site(tmp_path), "llm", "1"), locked(site(tmp_path), "llm", "2"):
        assert sorted(os.listdir(tmp_path / "run/docker")) == ["llm@1", "llm@2"]


def test_an_error_of_the_holder_is_its_own(tmp_path: Path) -> None:
    for error in (FileNotFoundError("mine"), PermissionError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, locked(site(tmp_path), "llm", "1"):
            raise error
        assert caught.value is error
    assert os.listdir(tmp_path / "run/docker") == []


def test_what_cannot_be_locked_is_told(tmp_path: Path) -> None:
    (tmp_path / "run/docker").mkdir(parents=True)
    (tmp_path / "run/docker/llm@1").touch()
    says = r"cannot lock .*Not a directory"
    with pytest.raises(InputOutputError, match=says), locked(site(tmp_path), "llm", "1"):
        pass


def test_a_directory_that_goes_at_the_wrong_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir
    raced: list[str] = []

    def mkdir(path: str, mode: int = 0o777) -> None:
        if path.endswith("llm@1") and not raced:
            raced.append(path)
            raise FileExistsError(17, "it was there, and its holder has removed it since", path)
        real(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with locked(site(tmp_path), "llm", "1"):
        assert len(raced) == 1
