"""The command line `worker-sidecar`: what a user gets wrong is one line and exit code 1."""

import subprocess
import sys

import pytest

import worker_exporter


def sidecar(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker_sidecar", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--prt=1"], "No such option '--prt'"),
        (["demo", "--port=70000"], "70000 is not in the range 0<=x<=65535"),
        (["demo", "--duration=0"], "--duration 0.0 is not a number of seconds above 0"),
        (["demo", "--duration=nan"], "--duration nan is not a number of seconds above 0"),
        (["demo", "--duration=soon"], "'soon' is not a valid float"),
        (["demo", "--slice=worker.slice"], "the name must begin with demo"),
        (["demo", "--slice=demo-a.slice"], "the name must begin with demo"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    done = sidecar(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("worker-sidecar: error: ")
    assert said in line


def test_version_and_help() -> None:
    assert sidecar("--version").stdout.strip().endswith(worker_exporter.__version__)
    for arguments in ([], ["--help"], ["demo", "--help"]):
        done = sidecar(*arguments)
        assert done.returncode == 0
        assert "Usage:" in done.stdout
