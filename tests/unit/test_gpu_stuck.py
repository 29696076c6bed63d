"""A helper process that not even SIGKILL ends: it is left alone, and no second one joins it."""

import logging
from pathlib import Path

import pytest
from tests.nvml.standin import gpu
from tests.unit import gpu_support
from tests.unit.gpu_support import PATIENCE, children, descriptors, is_alive, unkillable, until

from worker_exporter.gpu import asking
from worker_exporter.gpu.asking import Gpus
from worker_exporter.gpu.inventory import NoAnswerError, inventory


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("worker_exporter.backoff._FIRST", 0.01)
    monkeypatch.setattr("worker_exporter.backoff._LONGEST", 0.02)


def test_a_process_that_cannot_be_killed_stays_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    standin = gpu_support.host(tmp_path, monkeypatch)
    standin.is_now(gpu(0))
    gpus = Gpus(f"{tmp_path}/proc", f"{tmp_path}/sys", PATIENCE)
    before = children(), descriptors()
    gpus.ask()
    assert gpus.reading() is not None
    [stuck] = standin.pids
    gpus._patience = gpus._wanted_within = 0.05
    with monkeypatch.context() as hasty:
        hasty.setattr(asking, "_LONGEST", 0.1)
        with unkillable(stuck):
            for _ in range(2):
                gpus.ask()
                assert gpus.reading() is None
            until(lambda: _is_given_up(gpus))
            for _ in range(50):
                gpus.ask()
                assert gpus.reading() is None
            until(lambda: _has_complained(gpus, caplog))
            assert standin.pids == [stuck]
            assert is_alive(stuck)
            assert len(children()) == len(before[0]) + 1
    gpus._patience = gpus._wanted_within = PATIENCE
    until(lambda: _has_reading(gpus))
    assert not is_alive(stuck)
    assert len(standin.pids) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"GPU drivers: no answer within 0.05 s; {asking._ADVICE}",
        f"GPU drivers: no answer for 0.1 s; {asking._ADVICE}",
        f"GPU drivers: the process that asks hangs and cannot be killed; {asking._ADVICE}",
        "GPU drivers answer again",
    ]
    gpus.close()
    until(lambda: _are_left(gpus) == before)


def _are_left(gpus: Gpus) -> tuple[object, object]:
    """The processes and descriptors once it is closed."""
    gpus.close()
    return children(), descriptors()


def _is_given_up(gpus: Gpus) -> bool:
    gpus.ask()
    return gpus._killed is not None


def _has_complained(gpus: Gpus, caplog: pytest.LogCaptureFixture) -> bool:
    gpus.ask()
    return "cannot be killed" in caplog.text


def _has_reading(gpus: Gpus) -> bool:
    gpus.ask()
    return gpus.reading() is not None


def test_closing_leaves_it_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = gpu_support.host(tmp_path, monkeypatch)
    standin.is_now(gpu(0))
    gpus = Gpus(f"{tmp_path}/proc", f"{tmp_path}/sys", PATIENCE)
    before = descriptors()
    gpus.ask()
    assert gpus.reading() is not None
    [stuck] = standin.pids
    with unkillable(stuck):
        gpus.ask()
        gpus.close()
        assert is_alive(stuck)
        assert descriptors() == before
    gpus.close()
    until(lambda: not is_alive(stuck))


def test_an_inventory_leaves_it_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin = gpu_support.host(tmp_path, monkeypatch)
    standin.is_now("hang nvmlInitWithFlags", gpu(0))
    with pytest.raises(NoAnswerError):
        inventory(0.1, f"{tmp_path}/sys")
    until(lambda: not children())
