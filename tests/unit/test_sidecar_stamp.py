"""The helper that writes a worker's metadata."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker_sidecar.launch import stamp


def attributes(directory: Path) -> dict[str, bytes]:
    return {
        name.removeprefix("user.worker."): os.getxattr(directory, name)
        for name in os.listxattr(directory)
        if name.startswith("user.worker.")
    }


def test_metadata_and_the_time_of_the_start(tmp_path: Path) -> None:
    before = time.time()
    stamp.stamp(str(tmp_path), {"model": "é", "port": "8080"})
    found = attributes(tmp_path)
    assert before - 0.001 <= float(found.pop("started")) <= time.time() + 0.001
    assert found == {"model": "é".encode(), "port": b"8080"}


def test_what_is_too_long_keeps_nothing_else_away(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="declaration"):
        stamp.stamp(str(tmp_path), {"declaration": "x" * 70_000, "model": "m"})
    assert set(attributes(tmp_path)) == {"started", "model"}


def test_the_program_says_in_one_line_what_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", stamp.__file__, str(tmp_path / "nowhere"), "model=m"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("worker-sidecar: no metadata on this cgroup: ")
    assert done.stderr.count("\n") == 1
