"""What is kept between scrapes is never stale: an old scraper says what a new one says."""

import errno
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.trees import KernelManners, build, set_attribute

import worker_exporter.collectors  # noqa: F401  (fills REGISTRY)
from worker_exporter.cgroup.descriptors import Descriptors
from worker_exporter.scrape import Scraper, Settings, default_collectors

STEPS = 25
FIRST, COUNT = map(int, os.environ.get("STALE_SEEDS", "0,8").split(","))
SEEDS = range(FIRST, FIRST + COUNT)
KEPT, FEW, NONE = 10_000, 30, 0

OF_HISTORY = re.compile(
    rb"worker_(cpu_pct|io_\w+_per_second|start_time_seconds|exporter_\w+_seconds|exporter_read\w+"
    rb"|memory_page_faults_total|node_cpu_seconds_total)"
)
"""What depends on earlier scrapes by design: averages, durations, counts, a start once read, and
counters of which the kernel takes a little back.
"""

SLICES = ("worker.slice", "worker.slice/worker-llm.slice")
WORKERS = (
    "worker.slice/worker-llm.slice/worker-llm@8080.service",
    "worker.slice/worker-llm.slice/worker-llm@8081.service",
    "worker.slice/batch-1.scope",
    "worker.slice/train/0",
)
PIDS = tuple(range(100, 108))
DEVICES = ("8:0", "254:0", "259:3")
BY_CONTROLLER = {
    "cpu": ("cpu.max",),
    "cpuset": ("cpuset.cpus.effective",),
    "memory": (
        "memory.current",
        "memory.peak",
        "memory.stat",
        "memory.events",
        "memory.swap.current",
        "memory.max",
        "memory.high",
        "memory.swap.max",
    ),
    "io": ("io.stat",),
    "pids": ("pids.current", "pids.events", "pids.max"),
}
ALWAYS = ("cpu.stat", "cgroup.events", "cgroup.procs")
PRESSURE = ("cpu.pressure", "memory.pressure", "io.pressure")
GARBAGE = (
    b"",
    b"\n",
    b"12",
    b"what\n",
    b"usage_usec\n",
    b"some total=\nfull total=5\n",
    b"8:0 rbytes=1 wbytes\n",
    b"-5\n",
    b"1_0\n",
    b"\xff\xfe\x00\n",
    b"9" * 400 + b"\n",
    b"9" * 400 + b" 1\n",
    b"usage_usec " + b"9" * 400 + b"\n",
    b"8:0 rbytes=" + b"9" * 400 + b" wbytes=0\n",
    b"usage_usec " + b"9" * 5000 + b"\n",
)


class Host:
    """A host whose every file changes at random. `history` tells what was done to it."""

    def __init__(self, root: Path, manners: KernelManners, seed: int) -> None:
        self.random = random.Random(seed)
        self.history: list[str] = []
        self.root = root
        self.cgroups = root / "cgroup"
        self._manners = manners
        self._graves = 0
        self._boot()

    def edit(self) -> None:
        """Change one thing."""
        chosen = self.random.choices(
            (
                self._rewrite,
                self._garble,
                self._switch_controller,
                self._switch_pressure,
                self._refuse,
                self._allow,
                self._exec,
                self._grow,
                self._nest,
                self._unnest,
                self._probe,
                self._remove_worker,
                self._make_worker,
                self._rename_device,
                self._switch_cpu,
            ),
            weights=(12, 3, 4, 3, 2, 2, 4, 4, 3, 3, 2, 2, 3, 1, 1),
        )[0]
        self.history.append(f"{chosen.__name__}: {chosen()}")

    def _boot(self) -> None:
        (self.root / "graves").mkdir(parents=True)
        build(
            "==> proc/stat <==\ncpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 100\n"
            "\n==> proc/meminfo <==\nMemTotal: 100 kB\nMemAvailable: 50 kB\n"
            "\n==> sys/devices/system/cpu/online <==\n0-7\n"
            "\n==> sys/dev/block/8:0 -> ../../devices/sda <==\n"
            "\n==> sys/devices/dm-0/slaves/sda <==\n",
            self.root,
        )
        for pid in PIDS:
            build(
                f"==> proc/{pid}/stat <==\n{pid} (x) S {' '.join(['7'] * 30)}\n"
                f"\n==> proc/{pid}/statm <==\n90 {pid} 3 4 0 6 0\n",
                self.root,
            )
        for path in ("", *SLICES, "worker.slice/train"):
            (self.cgroups / path).mkdir(exist_ok=True)
            self._write(self.cgroups / path / "cgroup.subtree_control", b"cpu memory io pids\n")
        (self.cgroups / "cgroup.controllers").touch()
        for path in SLICES:
            self._furnish(self.cgroups / path, ("cpu", "memory", "io", "pids"))
        for path in WORKERS:
            self._make(self.cgroups / path)

    def _living(self) -> list[Path]:
        return [self.cgroups / path for path in WORKERS if (self.cgroups / path).is_dir()]

    def _files(self) -> list[Path]:
        """All files that the exporter may read of cgroups."""
        names = {*ALWAYS, *PRESSURE, *(name for each in BY_CONTROLLER.values() for name in each)}
        return sorted(path for path in self.cgroups.rglob("*") if path.name in names)

    def _make(self, worker: Path) -> None:
        worker.mkdir()
        enabled = (worker.parent / "cgroup.subtree_control").read_text().split()
        self._furnish(worker, tuple(enabled))
        for name in (*ALWAYS, *PRESSURE):
            self._write(worker / name, self._content(name))

    def _furnish(self, cgroup: Path, controllers: tuple[str, ...]) -> None:
        for controller in controllers:
            for name in BY_CONTROLLER[controller]:
                self._write(cgroup / name, self._content(name))

    def _write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)

    def _unlink(self, path: Path) -> None:
        if path.exists():
            self._manners.refusing.pop(path.stat().st_ino, None)
            path.unlink()

    def _remove(self, cgroup: Path) -> None:
        """Remove a directory so that its inode number is not used again, as in cgroupfs."""
        for path in [path for path in cgroup.rglob("*") if path.is_file()]:
            self._unlink(path)
        self._graves += 1
        cgroup.rename(self.root / "graves" / str(self._graves))

    def _number(self) -> int:
        return self.random.choice((0, 1, 5, 999_999, 1_000_000, 123_456_789, 2**63, 2**64 - 1))

    def _content(self, name: str) -> bytes:
        number = self._number
        keys = {
            "cpu.stat": ("usage_usec", "user_usec", "system_usec", "new_key"),
            "memory.stat": (
                "anon",
                "file",
                "kernel",
                "shmem",
                "file_mapped",
                "inactive_file",
                "workingset_refault_anon",
                "workingset_refault_file",
                "pgfault",
                "pgmajfault",
                "new_key",
            ),
            "memory.events": ("low", "high", "max", "oom", "oom_kill", "oom_group_kill"),
            "pids.events": ("max",),
        }
        if name in keys:
            given = [key for key in keys[name] if self.random.random() < 0.9]
            if name == "cpu.stat" and self.random.random() < 0.5:
                given += ["nr_periods", "nr_throttled", "throttled_usec"]
            return "".join(f"{key} {number()}\n" for key in given).encode()
        if name == "cgroup.events":
            populated, frozen = self.random.choices("01", k=2)
            return f"populated {populated}\nfrozen {frozen}\n".encode()
        if name == "io.stat":
            return "".join(map(self._io_line, DEVICES)).encode()
        if name in PRESSURE:
            kinds = self.random.choice((("some", "full"), ("some",)))
            averages = "avg10=0.00 avg60=1.20 avg300=3.00"
            return "".join(f"{kind} {averages} total={number()}\n" for kind in kinds).encode()
        if name == "cgroup.procs":
            count = self.random.randrange(5)
            return "".join(f"{pid}\n" for pid in self.random.sample(PIDS, count)).encode()
        if name == "cpu.max":
            return self.random.choice((b"max 100000\n", b"150000 100000\n", b"50000 100000\n"))
        if name == "cpuset.cpus.effective":
            return self.random.choice((b"0-7\n", b"0\n", b"0-1,4\n", b"\n"))
        if name in ("memory.max", "memory.high", "memory.swap.max", "pids.max"):
            return self.random.choice((b"max\n", b"0\n", b"%d\n" % number()))
        return b"%d\n" % number()

    def _io_line(self, device: str) -> str:
        if self.random.random() < 0.3:
            return ""
        if self.random.random() < 0.1:
            return f"{device} \n"
        keys = ("rbytes", "wbytes", "rios", "wios", "dbytes", "dios")
        return f"{device} {' '.join(f'{key}={self._number()}' for key in keys)} depth=max\n"

    def _rewrite(self) -> str:
        path = self.random.choice(self._files())
        self._write(path, self._content(path.name))
        return f"{path}: {path.read_bytes()!r}"

    def _garble(self) -> str:
        path = self.random.choice(self._files())
        whole = self._content(path.name)
        cut = whole[: self.random.randrange(len(whole) + 1)]
        self._write(path, self.random.choice((cut, self.random.choice(GARBAGE))))
        return f"{path}: {path.read_bytes()[:80]!r}"

    def _switch_controller(self) -> str:
        """Enable or disable a controller for all cgroups right below one, as the kernel does."""
        above = self.random.choice([self.cgroups, *(self.cgroups / path for path in SLICES)])
        controller = self.random.choice(tuple(BY_CONTROLLER))
        switch = above / "cgroup.subtree_control"
        enabled = switch.read_text().split()
        on = controller not in enabled
        names = [*enabled, controller] if on else [name for name in enabled if name != controller]
        self._write(switch, f"{' '.join(names)}\n".encode())
        followed = [self.cgroups / path for path in (*SLICES, *WORKERS)]
        for cgroup in (path for path in followed if path.parent == above and path.is_dir()):
            for name in BY_CONTROLLER[controller]:
                self._unlink(cgroup / name)
            if on:
                self._furnish(cgroup, (controller,))
        return f"{switch} {controller} {on}"

    def _switch_pressure(self) -> str:
        """What `cgroup.pressure` does."""
        workers = self._living()
        for worker in self.random.sample(workers, self.random.randrange(len(workers) + 1)):
            on = not (worker / PRESSURE[0]).exists()
            for name in PRESSURE:
                self._unlink(worker / name)
                if on:
                    self._write(worker / name, self._content(name))
        return str([f"{worker} {(worker / PRESSURE[0]).exists()}" for worker in workers])

    def _refuse(self) -> str:
        path = self.random.choice(self._files())
        number = self.random.choice((errno.EACCES, errno.EPERM, errno.EIO))
        self._manners.refuse(path, number)
        return f"{path} {errno.errorcode[number]}"

    def _allow(self) -> str:
        self._manners.refusing.clear()
        return "all"

    def _exec(self) -> str:
        cgroups = [path for path in self._files() if path.name == "cgroup.procs"]
        path = self.random.choice([*cgroups, None])
        if path is None:
            return "none"
        self._write(path, self._content(path.name))
        return f"{path}: {path.read_bytes()!r}"

    def _grow(self) -> str:
        path = self.root / "proc" / str(self.random.choice(PIDS)) / "statm"
        pages = self.random.randrange(1000)
        content = self.random.choice((b"90 %d 3 4 0 6 0\n" % pages, b"9\n", b"90 %d" % pages, b""))
        self._write(path, content)
        return f"{path}: {content!r}"

    def _nest(self) -> str:
        above = [path for worker in self._living() for path in [worker, *worker.glob("**/n*")]]
        nested = self.random.choice([*above, self.cgroups]) / f"n{self.random.randrange(3)}"
        if nested.parent == self.cgroups or nested.exists():
            return "none"
        nested.mkdir()
        self._write(nested / "cgroup.procs", self._content("cgroup.procs"))
        return str(nested)

    def _unnest(self) -> str:
        nested = sorted(path for worker in self._living() for path in worker.glob("**/n*"))
        if not nested:
            return "none"
        chosen = self.random.choice(nested)
        self._remove(chosen)
        again = self.random.random() < 0.5
        if again:
            # Another cgroup in its place: the link counts are as before.
            chosen.with_name("n9").mkdir(exist_ok=True)
            self._write(chosen.with_name("n9") / "cgroup.procs", self._content("cgroup.procs"))
        return f"{chosen} {again}"

    def _probe(self) -> str:
        worker = self.random.choice([*self._living(), self.cgroups])
        values = (b"1 1767225600.5 1e9", b"0 1767225601 1e9", b"1 1767225600 1", b"what")
        value = self.random.choice(values)
        set_attribute(worker, "user.worker.health", value)
        return f"{worker} {value!r}"

    def _remove_worker(self) -> str:
        living = self._living()
        if len(living) < 2:
            return "none"
        chosen = self.random.choice(living)
        self._remove(chosen)
        return str(chosen)

    def _make_worker(self) -> str:
        path = self.cgroups / self.random.choice(WORKERS)
        if path.is_dir():
            self._remove(path)
        self._make(path)
        return str(path)

    def _rename_device(self) -> str:
        number = self.random.choice(DEVICES)
        link = self.root / "sys/dev/block" / number
        link.unlink(missing_ok=True)
        target = self.random.choice((None, "sda", "dm-0", "cciss!c0d0"))
        if target is not None:
            link.symlink_to(f"../../devices/{target}")
        return f"{number} {target}"

    def _switch_cpu(self) -> str:
        online = self.random.choice((b"0-7\n", b"0\n", b""))
        self._write(self.root / "sys/devices/system/cpu/online", online)
        return str(online)


@pytest.fixture
def scrapers(tmp_path: Path) -> Iterator[Callable[[], Scraper]]:
    """Makes scrapers on the tree in the test's directory."""
    made: list[Scraper] = []

    def make() -> Scraper:
        settings = Settings(
            cgroupfs=f"{tmp_path}/cgroup", procfs=f"{tmp_path}/proc", sysfs=f"{tmp_path}/sys"
        )
        made.append(Scraper(settings))
        return made[-1]

    yield make
    for scraper in made:
        scraper.close()


def told(scraper: Scraper, selected: frozenset[str]) -> list[bytes]:
    """What a scrape says that does not depend on earlier ones, in one order."""
    lines = scraper.scrape(selected).text().splitlines()
    return sorted(
        line for line in lines if line.startswith(b"worker_") and not OF_HISTORY.match(line)
    )


def limit_descriptors(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(Descriptors, "of_process", classmethod(lambda cls: Descriptors(available)))


@pytest.mark.parametrize("available", [KEPT, FEW, NONE])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_old_scraper_says_what_a_new_one_says(
    seed: int,
    available: int,
    tmp_path: Path,
    scrapers: Callable[[], Scraper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_descriptors(monkeypatch, available)
    host = Host(tmp_path, KernelManners(monkeypatch), seed)
    everything = default_collectors()
    old = scrapers()
    old.scrape(everything)
    for _ in range(STEPS):
        for _ in range(host.random.randrange(1, 4)):
            host.edit()
        some = frozenset(host.random.sample(sorted(everything), host.random.randrange(3)))
        for selected in (some, everything)[host.random.randrange(2) :]:
            new = scrapers()
            expected, found = told(new, selected), told(old, selected)
            new.close()
            assert found == expected, "\n".join([*host.history, *_difference(found, expected)])


def _difference(found: list[bytes], expected: list[bytes]) -> list[str]:
    stale = [f"stale: {line.decode()}" for line in found if line not in expected]
    return stale + [f"missing: {line.decode()}" for line in expected if line not in found]
