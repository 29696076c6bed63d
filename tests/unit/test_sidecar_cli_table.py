"""The table and the JSON of `ps`."""

import dataclasses

from tests.unit.fake_launcher import running

from worker_sidecar.api.models import Worker
from worker_sidecar.cli.table import absent_as_json, as_json, columns, ending, rows, workers_table
from worker_sidecar.launch.launcher import State
from worker_sidecar.reconcile import Absent

LIVING = dataclasses.replace(
    running("llm", "8080"), pid=4242, started=1000.0, restarts=2, launcher="systemd"
)
FAILED = dataclasses.replace(
    running("llm", "8081", state=State.FAILED),
    started=900.0,
    result="oom-kill",
    exit_status=9,
    cgroup=None,
)
LOOSE = running("a", "1", unapplied=("memory", "io"))


def test_the_table() -> None:
    cells = rows([LIVING, FAILED, LOOSE], [(("job", "x"), Absent.STOPPED)], now=1187.0)
    assert workers_table(cells) == [
        "SERVICE  INSTANCE  STATE     PID  UPTIME  RESTARTS  LAUNCHER  CGROUP                 NOTE",
        "a        1         running     -       -         -  fake      worker.slice/a/1      "
        " limits that do not hold: memory, io",
        "job      x         stopped     -       -         -  -         -",
        "llm      8080      running  4242   3m07s         2  systemd   worker.slice/llm/8080",
        "llm      8081      failed      -       -         -  fake      -                     "
        " oom-kill, exit status 9",
    ]


def test_without_notes_there_is_no_such_column() -> None:
    assert workers_table(rows([LIVING], [], 1001.0))[0].endswith("CGROUP")
    assert workers_table([]) == [
        "SERVICE  INSTANCE  STATE  PID  UPTIME  RESTARTS  LAUNCHER  CGROUP"
    ]


def test_how_a_run_ended() -> None:
    assert ending(None, None) == ""
    assert ending("success", 0) == "exit status 0"
    assert ending("exit-code", 15) == "exit-code, exit status 15"
    assert ending("oom-kill", 137) == "oom-kill, exit status 137 (SIGKILL)"
    assert ending("exit-code", 255) == "exit-code, exit status 255"


def test_a_long_cell_widens_its_column_only() -> None:
    lines = columns([("A", "B", "C"), ("x", "long one", "y"), ("xyz", "1", "")], right=("B",))
    assert lines == ["A           B  C", "x    long one  y", "xyz         1"]


def test_the_json_is_that_of_the_api() -> None:
    found = as_json(LIVING, declared=True)
    assert found == Worker.of(LIVING, declared=True).model_dump(mode="json")
    gone = absent_as_json(("llm", "1"), Absent.MISSING)
    assert gone == Worker.absent("llm", "1", Absent.MISSING).model_dump(mode="json")
