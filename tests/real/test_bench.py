"""The benchmark itself: small, on real cgroups and on files in memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import bench.measure
import bench.workers
import pytest
from bench.client import Answer, FailedScrape, check
from bench.floor import read_files
from bench.measure import Case, measure
from bench.process import CpuClock
from bench.report import table
from bench.workers import running_workers
from tests.support import CannotMakeCgroupsError, made_slice
from tests.tools import missing, require

from worker_exporter.cgroup.mount import find_mount

SMALL = Case(workers=20, rounds=4, nofile=4096, comparisons=True)


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
    lines = table([result]).splitlines()
    assert sum(line.startswith("| 20 ") for line in lines) >= 5


def test_all_of_it_on_files_in_memory(no_cgroups: None) -> None:
    result = measure(SMALL, idle_seconds=0.1)
    assert result.kind == "fixture files in memory"
    idle, busy = result.loads
    assert idle.failed_scrapes == busy.failed_scrapes == 0
    assert idle.moved_files == 0
    assert busy.moved_files >= 4 * SMALL.workers  # cpu.stat and three pressure files
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


def test_with_few_descriptors_the_floor_still_reads_every_file(tmp_path: Path) -> None:
    workers = [tmp_path / "x.slice" / name for name in ("a", "b")]
    for worker in workers:
        worker.mkdir(parents=True)
        (worker / "cpu.stat").write_text("usage_usec 1\n")
        (worker / "cgroup.procs").write_text(f"{os.getpid()}\n")
    kept = [f"{workers[0]}/", f"{workers[0]}/cpu.stat"]
    assert read_files(kept, map(str, workers)) == sorted(
        [
            *(f"{worker}/" for worker in workers),
            *(f"{worker}/cpu.stat" for worker in workers),
            f"/proc/{os.getpid()}/statm",
        ]
    )


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


def test_the_cpu_clock_agrees_with_the_kernels_own() -> None:
    clock = CpuClock(os.getpid())
    before, own = clock.now(), sum(os.times()[:2])
    while sum(os.times()[:2]) - own < 0.1:
        pass
    assert (clock.now() - before) / 1e9 == pytest.approx(0.1, abs=0.03)


def test_ctrl_c_leaves_nothing(real_cgroups: None) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "bench.scrape", "--workers=50", "--rounds=1000000"],
        cwd=Path(bench.workers.__file__).parent.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    with run.stderr as errors:
        assert errors.readline().startswith("measuring 50 workers")
        top = f"{find_mount().path}/bench{run.pid}.slice"
        while not os.path.isdir(top):
            assert run.poll() is None
        while run.poll() is None:
            run.send_signal(signal.SIGINT)
        said = errors.read()
    assert run.returncode == 130
    assert "Traceback" not in said
    assert "everything it started has ended" in said
    assert not os.path.exists(top)
