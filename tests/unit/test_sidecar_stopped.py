"""Markers of workers that were stopped on purpose."""

import os
from pathlib import Path

import pytest

from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.stopped import Stopped


def test_a_marker_is_an_empty_file_that_another_process_would_find(tmp_path: Path) -> None:
    stopped = Stopped(str(tmp_path / "run"))
    assert stopped.names() == frozenset()
    stopped.mark("llm", "8080")
    stopped.mark("llm", "8080")
    [marker] = (tmp_path / "run/stopped").iterdir()
    assert (marker.name, marker.read_bytes()) == ("llm@8080", b"")
    assert (tmp_path / "run/stopped").stat().st_mode & 0o777 == 0o700
    assert Stopped(str(tmp_path / "run")).names() == {("llm", "8080")}
    stopped.clear("llm", "8080")
    stopped.clear("llm", "8080")
    assert stopped.names() == frozenset()


def test_what_is_no_marker_is_passed_over(tmp_path: Path) -> None:
    stopped = Stopped(str(tmp_path))
    stopped.mark("llm", "a.b_C")
    for name in ("README", "llm@", "@8080", "LLM@1", "llm@.hidden", "llm@a@b"):
        (tmp_path / "stopped" / name).touch()
    assert stopped.names() == {("llm", "a.b_C")}


@pytest.mark.parametrize(("service", "instance"), [("..", "x"), ("llm", "../x"), ("llm", "a\n")])
def test_no_path_leaves_the_directory(tmp_path: Path, service: str, instance: str) -> None:
    with pytest.raises(InputError):
        Stopped(str(tmp_path)).mark(service, instance)
    assert not os.listdir(tmp_path)


def test_a_directory_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    stopped = Stopped(str(tmp_path / "run"))
    for use in (lambda: stopped.mark("llm", "1"), lambda: stopped.clear("llm", "1"), stopped.names):
        with pytest.raises(InputOutputError, match="Not a directory"):
            use()
