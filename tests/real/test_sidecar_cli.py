"""The real program on this host's real cgroup2, without systemd."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support import CannotMakeCgroupsError, made_slice, remove_cgroup
from tests.tools import missing

from worker_exporter import __version__

SLICE = f"sidecartest{os.getpid()}.slice"
PATIENCE = 60

WORKERS = """
slice: {slice}
owners: {{pact.slice: pact}}
services:
  llm:
    command: [sleep, "{{seconds}}"]
    user: root
    parameters:
      seconds: {{type: integer, default: {seconds}, max: 100000}}
    instances: {{a: {{}}, b: {{}}}}
  job:
    command: [sh, -c, "echo begun; exec sleep 1000"]
    user: root
    instances: {{"1": {{}}}}
"""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The program with a workers.yaml, markers and logs of its own."""

    directory: Path
    place: Path

    @property
    def file(self) -> Path:
        return self.directory / "workers.yaml"

    def declare(self, seconds: int = 1000) -> None:
        self.file.write_text(WORKERS.format(slice=SLICE, seconds=seconds))

    def begin(self, *arguments: str, **streams: Any) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        directories = {
            "RUNTIME_DIRECTORY": f"{self.directory}/run",
            "LOGS_DIRECTORY": f"{self.directory}/log",
        }
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "worker_sidecar", "--launcher=cgroupfs"),
                *(f"--file={self.file}", "--log.level=error", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **directories},
            **pipes,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What the program prints, when it ends with `code`."""
        with self.begin(*arguments) as process:
            said, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, (arguments, said, errors)
        return said

    def error(self, *arguments: str, code: int) -> str:
        """The one line of error with which the program ends."""
        with self.begin(*arguments) as process:
            said, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (code, ""), (arguments, said, errors)
        [line] = errors.splitlines()
        assert line.startswith("worker-sidecar: error: ")
        return line.removeprefix("worker-sidecar: error: ")

    def states(self, *arguments: str) -> dict[str, str]:
        workers = json.loads(self("ps", "-o", "json", *arguments))
        return {f"{worker['service']}/{worker['instance']}": worker["state"] for worker in workers}

    def pids(self, worker: str) -> Sequence[int]:
        """The processes of a worker, by the kernel's word."""
        try:
            return [int(pid) for pid in (self.place / worker / "cgroup.procs").read_text().split()]
        except FileNotFoundError:
            return []


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    try:
        with made_slice(SLICE) as directory:
            place = Path(directory)
    except CannotMakeCgroupsError as error:
        missing(str(error))
    sidecar = Sidecar(tmp_path, place)
    sidecar.declare()
    try:
        yield sidecar
    finally:
        if place.exists():
            remove_cgroup(str(place))


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie: who inherits a worker may be slow to wait."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_a_worker_from_its_start_to_its_end(sidecar: Sidecar) -> None:
    said = sidecar("run", "web", "x", "--model=m", "--", "sh", "-c", "echo $HOME; exec sleep 1000")
    [pid] = sidecar.pids("web/x")
    assert said == f"started web/x by cgroupfs: {SLICE}/web/x, pid {pid}\n"
    assert f"0::/{SLICE}/web/x\n" in Path(f"/proc/{pid}/cgroup").read_text()
    assert os.getxattr(sidecar.place / "web/x", "user.worker.model") == b"m"

    head, row = sidecar("ps", "--service=web").splitlines()
    assert head.split() == [
        "SERVICE",
        "INSTANCE",
        "STATE",
        "PID",
        "UPTIME",
        "RESTARTS",
        "LAUNCHER",
        "CGROUP",
    ]
    cells = row.split()
    assert cells[:4] == ["web", "x", "running", str(pid)]
    assert cells[5:] == ["-", "cgroupfs", f"{SLICE}/web/x"]
    assert sidecar("logs", "web", "x") == "/root\n" if os.getuid() == 0 else True

    assert sidecar.error("run", "web", "x", "--", "true", code=5) == "web/x is already running"
    assert sidecar.pids("web/x") == [pid]
    assert sidecar("stop", "web", "x") == "stopped web/x\n"
    assert not (sidecar.place / "web/x").exists()
    assert not runs(pid)
    assert "no worker web/x" in sidecar.error("stop", "web", "x", code=3)
    assert "no worker web/x" in sidecar.error("kill", "web", "x", code=3)


def test_of_ten_equal_runs_one_starts(sidecar: Sidecar) -> None:
    runs = [sidecar.begin("run", "web", "1", "--", "sleep", "1000") for _ in range(10)]
    ended = [(run.communicate(timeout=PATIENCE), run.returncode) for run in runs]
    assert sorted(code for _, code in ended) == [0] + [5] * 9, ended
    for (_, errors), code in ended:
        assert code == 0 or errors == "worker-sidecar: error: web/1 is already running\n"
    assert len(sidecar.pids("web/1")) == 1


def test_apply_makes_it_so_and_then_does_nothing(sidecar: Sidecar) -> None:
    said = sidecar("apply").splitlines()
    assert said == [
        "llm/a: started (missing)",
        "llm/b: started (missing)",
        "job/1: started (missing)",
        "workers: 3 started",
    ]
    before = {worker: sidecar.pids(worker) for worker in ("llm/a", "llm/b", "job/1")}
    assert all(len(pids) == 1 for pids in before.values())
    for arguments in (("apply",), ("apply", "--replace", "--prune"), ("apply", str(sidecar.file))):
        assert sidecar(*arguments) == "workers: 3 left\n"
    assert sidecar("apply", "--diff") == ""
    assert {worker: sidecar.pids(worker) for worker in before} == before


def test_apply_replaces_and_prunes_only_when_told(sidecar: Sidecar) -> None:
    sidecar("apply")
    sidecar("run", "web", "1", "--", "sleep", "1000")
    before = {worker: sidecar.pids(worker) for worker in ("llm/a", "llm/b", "job/1", "web/1")}
    sidecar.declare(seconds=2000)
    difference = '  argv: ["sleep", "1000"] -> ["sleep", "2000"]'
    assert sidecar("apply", "--diff").splitlines() == [
        "llm/a: differs; would be left without --replace",
        difference,
        "llm/b: differs; would be left without --replace",
        difference,
        "web/1: would be left without --prune (not declared)",
    ]
    sidecar("apply")
    assert {worker: sidecar.pids(worker) for worker in before} == before

    assert sidecar("apply", "--replace", "--prune").splitlines() == [
        "llm/a: replaced",
        difference,
        "llm/b: replaced",
        difference,
        "web/1: stopped (not declared)",
        "workers: 1 left, 2 replaced, 1 stopped",
    ]
    [pid] = sidecar.pids("llm/a")
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x002000\x00"
    assert sidecar.pids("job/1") == before["job/1"]
    assert sidecar.pids("web/1") == []
    assert sidecar("apply", "--replace", "--prune") == "workers: 3 left\n"


def test_what_was_stopped_on_purpose_stays_stopped(sidecar: Sidecar) -> None:
    sidecar("apply")
    sidecar("stop", "llm", "a")
    sidecar("kill", "llm", "b")
    assert (sidecar.directory / f"run/{SLICE}/stopped/llm@a").exists()
    assert sidecar.states() == {"job/1": "running", "llm/a": "stopped", "llm/b": "stopped"}
    assert "llm/a: stays stopped, see --include-stopped (stopped on purpose)" in sidecar("apply")
    sidecar("run", "llm", "a")
    assert sidecar.states("--state=running") == {"job/1": "running", "llm/a": "running"}
    assert sidecar("apply", "--include-stopped") == "llm/b: started (missing)\n" + (
        "workers: 2 left, 1 started\n"
    )


def test_ps_knows_the_missing_and_the_ended(sidecar: Sidecar) -> None:
    assert sidecar.states() == {"job/1": "missing", "llm/a": "missing", "llm/b": "missing"}
    assert "missing" in sidecar("ps").splitlines()[1]
    sidecar("run", "web", "1", "--", "true")
    wait_empty(sidecar.place / "web/1")
    assert sidecar.states("--service=web") == {"web/1": "ended"}
    assert sidecar.states("--service=web", "--state=running") == {}
    sidecar("run", "web", "1", "--", "sleep", "1000")
    assert sidecar.states("--service=web") == {"web/1": "running"}


def wait_empty(directory: Path) -> None:
    descriptor = os.open(directory / "cgroup.events", os.O_RDONLY)
    poll = select.poll()
    poll.register(descriptor, select.POLLPRI)
    try:
        while b"populated 1" in os.pread(descriptor, 4096, 0):
            assert poll.poll(PATIENCE * 1000), f"{directory} does not become empty"
    finally:
        os.close(descriptor)


def test_a_worker_of_the_file_with_parameters_and_flags(sidecar: Sidecar) -> None:
    sidecar("run", "llm", "c", "--parameter=seconds=77", "--env=A=b")
    [pid] = sidecar.pids("llm/c")
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0077\x00"
    assert b"A=b" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    said = sidecar.error("run", "llm", "d", "--parameter=seconds=soon", code=2)
    assert "parameter seconds of llm: 'soon'" in said
    assert "has no parameter 'x'" in sidecar.error("run", "llm", "d", "--parameter=x=1", code=2)


def test_down_leaves_nothing_and_declared_workers_stay_down(sidecar: Sidecar) -> None:
    sidecar("apply")
    pids = [pid for worker in ("llm/a", "llm/b", "job/1") for pid in sidecar.pids(worker)]
    said = sidecar("down").splitlines()
    assert sorted(said) == ["stopped job/1", "stopped llm/a", "stopped llm/b"]
    assert len(pids) == 3
    assert not any(runs(pid) for pid in pids)
    assert not sidecar.place.exists()
    assert sidecar("down") == ""
    assert set(sidecar.states().values()) == {"stopped"}


def test_a_dry_run_is_shell_lines_and_does_nothing(sidecar: Sidecar) -> None:
    lines = sidecar("run", "web", "1", "--dry-run", "--", "sh", "-c", "echo $HOME").splitlines()
    assert lines[-1].endswith("-- sh -c 'echo $HOME'")
    assert not sidecar.place.exists()


def test_strict_takes_a_worker_back_whose_limits_do_not_hold(sidecar: Sidecar) -> None:
    command = ("run", "web", "1", "--memory=64M", "--strict", "--", "sleep", "1000")
    root = sidecar.place.parent
    if "memory" in (root / "cgroup.controllers").read_text().split():
        sidecar(*command)
        assert (sidecar.place / "web/1/memory.max").read_text() == f"{64 * 2**20}\n"
        return
    said = sidecar.error(*command, code=1)
    assert said.startswith("web/1 was ended again: its limits of memory")
    assert sidecar.pids("web/1") == []
    assert sidecar.states("--service=web") == {}


def test_apply_says_each_failure_and_handles_the_others(sidecar: Sidecar) -> None:
    text = sidecar.file.read_text()
    sidecar.file.write_text(text.replace("command: [sleep,", "command: [/no/such/sleep,"))
    with sidecar.begin("apply") as process:
        said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said.splitlines() == ["job/1: started (missing)", "workers: 1 started, 2 failed"]
    assert len(errors.splitlines()) == 2
    for worker, line in zip(("llm/a", "llm/b"), errors.splitlines(), strict=True):
        assert line.startswith(f"worker-sidecar: error: {worker}: /no/such/sleep")


BAD: Sequence[tuple[Sequence[str], int, str]] = [
    (["run", "LLM", "1", "--", "true"], 2, "service 'LLM' is no name"),
    (["run", "a-b", "1", "--", "true"], 2, "a dash would nest slices"),
    *[
        (["run", "web", name, "--", "true"], 2, "instance ")
        for name in (".", "..", "cgroup.procs", "a\n", "x" * 300, "a/b", "", "ä", "x.service")
    ],
    (["run", "web", "1", "--", ""], 2, "web/1 has no command"),
    (["run", "web", "1"], 3, "web is no service of"),
    (["run", "web", "1", "--parameter=a=1", "--", "true"], 2, "--parameter belongs to"),
    (["run", "web", "1", "--port=0", "--", "true"], 2, "'--port': 0 is not in the range"),
    (["run", "web", "1", "--cpu=-1", "--", "true"], 2, "limit cpu '-1'"),
    (["run", "web", "1", "--memory=lots", "--", "true"], 2, "limit memory 'lots'"),
    (["run", "web", "1", "--tasks=many", "--", "true"], 2, "'many' is not a valid integer"),
    (["run", "web", "1", "--restart=always", "--", "true"], 4, "restart"),
    (["run", "web", "1", "--restart=often", "--", "true"], 2, "'often' is not one of"),
    (["run", "web", "1", "--user=nobody_at_all", "--", "true"], 2, "nobody_at_all"),
    (["run", "web", "1", "--directory=/no/where", "--", "true"], 2, "/no/where"),
    (["run", "web", "1", "--", "/no/such/program"], 2, "/no/such/program"),
    (["run", "web", "1", "--gpu=77", "--", "true"], 2, "77"),
    (["run", "web", "1", "--secret=a=/no/file", "--user=daemon", "--", "true"], 2, "/no/file"),
    (["run", "web", "1", "--secret=a=/etc/shadow", "--", "true"], 4, "needs a uid of its own"),
    (["run", "web", "1", "--emergency", "--", "true"], 2, "belong together"),
    (["run", "web", "1", "--slice=pact-x.slice", "--", "true"], 4, "belongs to pact"),
    (["stop", "web", "1", "--slice=pact.slice"], 4, "belongs to pact"),
    (["apply", "--slice=system.slice"], 4, "belongs to systemd"),
    (["down", "--slice=worker.slice-extra"], 2, "'worker.slice-extra' is no slice"),
    (["stop", "web", "1", "--grace=-1"], 2, "--grace -1 is not a number of seconds"),
    (["stop", "web", "1", "--grace=nan"], 2, "--grace nan is not"),
    (["stop", "web", ".."], 2, "instance '..' is no name"),
    (["kill", "web", "1"], 3, "no worker web/1"),
    (["logs", "web", "1"], 3, "web/1"),
    (["logs", "web", "1", "-n", "-1"], 2, "-1 is not in the range"),
    (["ps", "--state=odd"], 2, "'odd' is not one of"),
    (["--file=/no/such.yaml", "ps"], 2, "/no/such.yaml"),
    (["apply", "/no/such.yaml"], 2, "/no/such.yaml"),
    (["apply", "/"], 2, "/"),
    (["serve", "--listen-address=:0"], 2, "--listen-address needs --token-file"),
    (["serve", "--telemetry-address=here"], 2, "cannot listen on 'here'"),
    (["fly"], 2, "No such command 'fly'"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), BAD, ids=lambda value: str(value)[:60])
def test_bad_input_is_one_line_and_nothing_is_made(
    sidecar: Sidecar, arguments: Sequence[str], code: int, said: str
) -> None:
    assert said in sidecar.error(*arguments, code=code)
    assert not sidecar.place.exists()


def test_a_broken_file_names_the_line_and_stops_only_what_needs_it(sidecar: Sidecar) -> None:
    sidecar("run", "web", "1", "--", "sleep", "1000")
    sidecar.file.write_text(f"slice: {SLICE}\nservices:\n  llm: {{comand: [x], user: root}}\n")
    for arguments in (["apply"], ["stop", "web", "1"], ["run", "web", "2", "--", "true"]):
        with sidecar.begin(*arguments) as process:
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert f"error: {sidecar.file}:3: services.llm.comand" in errors
        assert "Traceback" not in errors
    assert len(sidecar.pids("web/1")) == 1


def test_an_emergency_goes_before_ownership_and_is_logged(sidecar: Sidecar) -> None:
    text = sidecar.file.read_text().replace(f"slice: {SLICE}", "slice: worker.slice")
    sidecar.file.write_text(text)
    command = (f"--slice={SLICE}", "run", "web", "1")
    assert "is not one of ours" in sidecar.error(*command, "--", "true", code=4)
    assert sidecar(f"--slice={SLICE}", "ps", "--service=web").count("\n") == 1
    override = ("--emergency", "--reason=the owner is on fire", "--log.level=warn")
    with sidecar.begin(*command, *override, "--", "sleep", "1000") as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert f'reason="the owner is on fire" uid={os.getuid()}' in errors
    assert len(sidecar.pids("web/1")) == 1


def test_sigkill_at_any_moment_of_an_apply(sidecar: Sidecar) -> None:
    """Afterwards ps tells the truth, nothing runs twice, and a second apply finishes the work."""
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    workers = ("llm/a", "llm/b", "job/1")
    begun = time.monotonic()
    sidecar("apply")
    whole = time.monotonic() - begun
    for round_ in range(8):
        sidecar.declare(seconds=1001 + round_)
        with sidecar.begin("apply", "--replace") as process:
            time.sleep(moments.uniform(0, 1.2) * whole)
            process.kill()
        assert told_truly(sidecar, workers), (seed, round_)
        assert "failed" not in sidecar("apply", "--replace"), (seed, round_)
        for worker in workers:
            assert len(sidecar.pids(worker)) == 1, (seed, round_, worker)
        [pid] = sidecar.pids("llm/a")
        expected = f"sleep\0{1001 + round_}\0".encode()
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == expected, (seed, round_)
        assert sidecar("apply", "--replace") == "workers: 3 left\n", (seed, round_)


def told_truly(sidecar: Sidecar, workers: Sequence[str]) -> bool:
    """Whether ps says of each worker what the kernel does, asked while nothing changes: what a
    killed starter has begun may still come up.
    """

    def living() -> set[str]:
        return {worker for worker in workers if populated(sidecar.place / worker)}

    after = living()
    while True:
        before = after
        told = sidecar.states()
        after = living()
        if before == after:
            return {name for name in workers if told[name] == "running"} == before


def populated(directory: Path) -> bool:
    try:
        return "populated 1" in (directory / "cgroup.events").read_text()
    except (FileNotFoundError, OSError):
        return False


def test_logs_follow_until_interrupted(sidecar: Sidecar) -> None:
    fifo = sidecar.directory / "go"
    os.mkfifo(fifo)
    script = f"echo one; read x < {fifo}; echo two; exec sleep 1000"
    sidecar("run", "web", "1", "--", "sh", "-c", script)
    with sidecar.begin("logs", "-f", "web", "1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        fifo.write_text("go\n")
        assert process.stdout.readline() == "two\n"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest, errors) == (130, "", "")
    assert sidecar("logs", "-n", "1", "web", "1") == "two\n"


def test_a_reader_that_went_away_is_silent(sidecar: Sidecar) -> None:
    read, write = os.pipe()
    os.close(read)
    with sidecar.begin("ps", stdout=write) as process:
        os.close(write)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (141, "")


def test_output_that_cannot_be_written_is_an_error(sidecar: Sidecar) -> None:
    with open("/dev/full", "w") as full, sidecar.begin("ps", stdout=full) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors == "worker-sidecar: error: No space left on device\n"


def test_version_and_help(sidecar: Sidecar) -> None:
    assert sidecar("--version").strip().endswith(__version__)
    for arguments in (("--help",), ("run", "--help"), ("serve", "--help")):
        assert "Usage:" in sidecar(*arguments)
