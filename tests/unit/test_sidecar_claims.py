"""Claims: locks of starts that no killed process and no file outlives."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from worker_sidecar.claims import ClaimedError, claimed
from worker_sidecar.errors import InputOutputError

HOLDER = """
import sys
from worker_sidecar.claims import claimed
with claimed(sys.argv[1], ["port-8080", "llm@8080"]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_at_a_time_and_no_file_stays(tmp_path: Path) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with claimed(str(tmp_path), ["llm@8080"]):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0)
                with lock:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert os.listdir(tmp_path / "starting") == []


def test_different_claims_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with claimed(str(tmp_path), ["llm@1"]), claimed(str(tmp_path), ["llm@2"], patience=0):
        assert sorted(os.listdir(tmp_path / "starting")) == ["llm@1", "llm@2"]


def test_a_held_claim_is_named(tmp_path: Path) -> None:
    with (
        claimed(str(tmp_path), ["port-8080"]),
        pytest.raises(ClaimedError) as caught,
        claimed(str(tmp_path), ["llm@8080", "port-8080"], patience=0),
    ):
        pytest.fail("it was claimed twice")
    assert caught.value.claim == "port-8080"
    with claimed(str(tmp_path), ["llm@8080"], patience=0):
        pass  # what was claimed before the failure was let go


def test_nobody_waits_in_a_circle(tmp_path: Path) -> None:
    failures: list[str] = []

    def work(claims: list[str]) -> None:
        try:
            for _ in range(100):
                with claimed(str(tmp_path), claims, patience=5):
                    pass
        except ClaimedError as error:
            failures.append(error.claim)

    orders = (["llm@1", "port-1"], ["port-1", "llm@1"])
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(ClaimedError), claimed(str(tmp_path), ["llm@8080"], patience=0):
                pytest.fail("it was claimed twice")
        finally:
            holder.kill()
    with claimed(str(tmp_path), ["llm@8080", "port-8080"], patience=0):
        pass


def test_a_directory_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputOutputError, match="Not a directory"), claimed(f"{tmp_path}/run", "x"):
        pytest.fail("it was claimed")
