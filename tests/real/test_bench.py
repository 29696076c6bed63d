"""The benchmark itself: small, on real cgroups and on files in memory."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import bench.measure
import bench.workers
import pytest
from bench.bus import running_bus
from bench.client import Answer, Client, FailedScrape, check, check_gpus, check_units
from bench.floor import kept_files, read_files
from bench.measure import Case, answer_with_units, measure
from bench.process import CpuClock
from bench.report import table
from bench.workers import running_workers
from tests.support import CannotMakeCgroupsError, made_slice, running_exporter
from tests.tools import missing, require

from worker_exporter.cgroup.mount import find_mount

SMALL = Case(workers=20, rounds=10, nofile=4096, comparisons=True)


@pytest.fixture
def real_cgroups() -> None:
    require("cc")
    try:
        with made_slice(f"try{os.getpid()}.slice"):
            pass
    except CannotMakeCgroupsError as error:
        missing(str(error))


@pytest.fixture
def no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    require("cc")

    def refuse(name: str) -> None:
        raise CannotMakeCgroupsError(name)

    monkeypatch.setattr(bench.workers, "made_slice", refuse)


def test_all_of_it_on_real_cgroups(real_cgroups: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.measure, "PEERS", ())  # each takes ten seconds a load
    result = measure(SMALL, idle_seconds=0.1)
    assert result.kind == "real cgroups"
    assert result.kept_files == result.files
    idle, busy = result.loads
    assert (idle.name, busy.name) == ("idle", "busy")
    assert idle.failed_scrapes == busy.failed_scrapes == 0
    # every worker's cpu.stat counts what it burnt
    assert busy.moved_files >= SMALL.workers
    assert idle.floor_seconds < idle.cpu_seconds
    assert idle.floor_seconds == idle.kept_floor_seconds
    for load in result.loads:
        assert 0 < load.cpu_seconds < load.wall_seconds * (os.cpu_count() or 1)
    for units in (idle.with_units, busy.with_units, result.beside_failed):
        assert units.failed_scrapes < SMALL.rounds
        low, high = units.added_quartiles
        assert low <= units.added_seconds <= high
        assert units.added_seconds < units.cpu_seconds
    assert idle.with_units.added_seconds > 0, "the bus is not for free"
    assert result.first_units_cpu_seconds > 0
    assert result.with_gpus is not None
    assert (result.with_gpus.gpus, result.with_gpus.processes) == (8, SMALL.workers)
    for gpus in result.with_gpus.loads:
        assert gpus.failed_scrapes < SMALL.rounds
        assert gpus.added_seconds > 0, "a process is asked, and has its own CPU"
    assert [line.split(" | ")[1] for line in table([result]).splitlines() if "| 20 " in line] == [
        *("idle", "busy"),
        *("idle", "busy", "idle, 50 failed beside"),
        *("8, 20", "8, 20"),
        "21",
        *("idle", "busy"),
    ]


def test_all_of_it_on_files_in_memory(no_cgroups: None) -> None:
    result = measure(SMALL, idle_seconds=0.1)
    assert result.kind == "fixture files in memory"
    idle, busy = result.loads
    assert idle.failed_scrapes == busy.failed_scrapes == 0
    assert idle.moved_files == 0
    assert busy.moved_files >= 4 * SMALL.workers  # cpu.stat and three pressure files
    assert result.with_gpus is None, "who holds a GPU is told by real cgroups only"
    assert not list(Path("/dev/shm").glob("bench-*"))


def test_every_worker_works_when_woken(real_cgroups: None) -> None:
    with running_workers(20) as workers:

        def used() -> list[int]:
            stats = [Path(f"{each}/cpu.stat").read_text() for each in workers.directories]
            return [int(stat.split()[1]) for stat in stats]

        before = used()
        workers.wake()
        assert all(100 <= new - old < 10_000 for old, new in zip(before, used(), strict=True)), (
            "each burns 100 µs"
        )


def test_the_floor_reads_the_same_of_every_worker_slice_and_process(tmp_path: Path) -> None:
    slices = [tmp_path / "x.slice", tmp_path / "y.slice"]
    workers = [each / name for each in slices for name in ("a", "b")]
    for worker in workers:
        worker.mkdir(parents=True)
        (worker / "cgroup.procs").write_text(f"{os.getpid()}\n")
    own = f"/proc/{os.getpid()}/statm"
    one = [f"{workers[0]}/", f"{workers[0]}/cpu.stat", f"{slices[0]}/memory.max", own]
    top = f"{tmp_path}/cgroup.subtree_control"
    assert read_files([*one, top], map(str, workers)) == sorted(
        [
            *(f"{worker}/" for worker in workers),
            *(f"{worker}/cpu.stat" for worker in workers),
            *(f"{each}/memory.max" for each in slices),
            *(top, own),
        ]
    )
    assert own not in read_files(one[:-1], map(str, workers))


def test_with_few_descriptors_the_floor_still_reads_every_file(real_cgroups: None) -> None:
    with running_workers(60) as workers:  # two services
        kept = {}
        for nofile in (80, 4096):
            with running_exporter(*workers.flags, "--no-collector.units", nofile=nofile) as each:
                client = Client(each.host, each.port)
                check(client.scrape(), 60)
                client.close()
                kept[nofile] = set(kept_files(each.pid, workers))
        files = set(read_files(bench.measure.files_of_one(workers), workers.directories))
    assert kept[80] < files == kept[4096]


def test_the_bus_knows_the_workers_and_ends(real_cgroups: None) -> None:
    before = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(ZeroDivisionError))
        workers = stack.enter_context(running_workers(3))
        bus = stack.enter_context(running_bus(workers))
        exporter = stack.enter_context(running_exporter(*workers.flags))
        client = stack.enter_context(contextlib.closing(Client(exporter.host, exporter.port)))
        check(answer_with_units(client, 3), 3)
        bus.fail_beside(workers, 2)
        answer = answer_with_units(client, 5)
        check(answer, 3)
        assert answer.text.count(b'result="oom-kill"} 1\n') == 2
        raise ZeroDivisionError
    assert not os.path.exists(f"/proc/{bus.pid}")
    assert os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") == before


def test_an_answer_without_all_units_is_a_failed_scrape() -> None:
    states = b'worker_unit_state{state="active"} 1\nworker_unit_state{state="failed"} 0\n'
    restarts = b"worker_restarts_total{} 0\n"
    check_units(Answer(0.1, 1, states + restarts), 1)
    with pytest.raises(FailedScrape, match="states of 1 units and restarts of 0 instead of 1"):
        check_units(Answer(0.1, 1, states), 1)


def test_an_answer_without_all_processes_on_gpus_is_a_failed_scrape() -> None:
    text = b'worker_gpu_process_memory_used_bytes{service="llm",gpu="0",pid="7"} 1\n'
    check_gpus(Answer(0.1, 1, text), 1)
    check_gpus(Answer(0.1, 1, b""), 0)
    with pytest.raises(FailedScrape, match="GPU memory of 1 processes instead of 2"):
        check_gpus(Answer(0.1, 1, text), 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'worker_up{service="a"} 1\n', "no # EOF"),
        (b'worker_up{service="a"} 0\n# EOF\n', "0 workers up instead of 1"),
        (b'worker_up{service="a"} 1\nworker_up{service="b"} 1\n# EOF\n', "2 workers up"),
    ],
)
def test_an_answer_that_is_not_whole_is_a_failed_scrape(text: bytes, reason: str) -> None:
    check(Answer(0.1, 1, b'worker_up{service="a"} 1\n# EOF\n'), 1)
    with pytest.raises(FailedScrape, match=reason):
        check(Answer(0.1, 1, text), 1)


def test_the_cpu_clock_counts_processes_together(real_cgroups: None) -> None:
    with running_workers(2) as workers:
        one, two = (int(Path(f"{each}/cgroup.procs").read_text()) for each in workers.directories)
        clocks = [CpuClock(one), CpuClock(two), CpuClock(one, two)]
        before = [clock.settled() for clock in clocks]
        workers.wake()

        def used() -> list[int]:
            return [clock.settled() - start for clock, start in zip(clocks, before, strict=True)]

        # The last moments of a worker may come between two looks.
        looks = [used() for _ in range(50)]
    assert all(first > 0 and second > 0 for first, second, _ in looks)
    assert any(both == first + second for first, second, both in looks)


def test_the_cpu_clock_agrees_with_the_kernels_own() -> None:
    clock = CpuClock(os.getpid())
    before, own = clock.now(), sum(os.times()[:2])
    while sum(os.times()[:2]) - own < 0.1:
        pass
    assert (clock.now() - before) / 1e9 == pytest.approx(0.1, abs=0.03)


def test_ctrl_c_leaves_nothing(real_cgroups: None, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "bench.scrape", "--workers=50", "--rounds=1000000"],
        cwd=Path(bench.workers.__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    with run.stderr as errors:
        assert errors.readline().startswith("measuring 50 workers")
        while not _processes_of(tmp_path):  # the bus, the last but one to start
            assert run.poll() is None
        assert os.path.isdir(f"{find_mount().path}/bench{run.pid}.slice")
        run.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(0.02)
        run.send_signal(signal.SIGINT)  # once more, while it cleans up
        said = errors.read()
        run.wait()
    assert run.returncode == 130
    assert "Traceback" not in said
    assert "everything it started has ended" in said
    assert not os.path.exists(f"{find_mount().path}/bench{run.pid}.slice")
    assert not _processes_of(tmp_path)
    assert not list(tmp_path.iterdir())


def _processes_of(folder: Path) -> list[str]:
    """The processes of buses whose socket lies below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}/bus-".encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found
