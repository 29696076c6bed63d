"""The floor: what the kernel alone takes for the files that the exporter reads."""

import contextlib
import os
import re
import resource
from collections.abc import Iterable, Iterator, Sequence

from bench.helper import Helper, running_helper
from bench.process import open_paths

_STATM = re.compile(r"/proc/\d+/statm")
_SPARE = 64


class Floor:
    """The files of an exporter, kept open by a C program that only reads them.

    More files than one process may keep open are shared out to as many as it takes.
    """

    def __init__(self, helpers: Sequence[Helper]) -> None:
        self._helpers = helpers

    def read(self) -> int:
        """Read every file once; the CPU time of that in nanoseconds."""
        total = 0
        for helper in self._helpers:
            nanoseconds, _, failed = helper.ask().split()
            if failed != "0":
                raise RuntimeError(f"the floor could not read {failed} files")
            total += int(nanoseconds)
        return total


@contextlib.contextmanager
def running_floor(paths: Sequence[str]) -> Iterator[Floor]:
    """The floor of `paths`; one that ends in "/" is a directory whose health xattr is read."""
    size = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE
    with contextlib.ExitStack() as stack:
        yield Floor(
            [
                stack.enter_context(running_helper("floor", paths[start : start + size]))
                for start in range(0, len(paths), size)
            ]
        )


def kept_files(pid: int, slice_name: str) -> list[str]:
    """The cgroup files, directories (with a final "/") and statm files an exporter keeps open."""
    below = [path for path in open_paths(pid) if f"/{slice_name}" in path or _STATM.fullmatch(path)]
    return sorted(f"{path}/" if os.path.isdir(path) else path for path in below)


def read_files(kept: Iterable[str], directories: Iterable[str]) -> list[str]:
    """All files an exporter reads, from those it keeps: the same of every worker and slice.

    With enough descriptors these are the kept ones; without, the rest is opened at every scrape.
    The statm files are the last to be opened, so that none may be kept though all are read: they
    are wherever no worker has memory.stat.
    """
    found, workers = set(kept), set(directories)
    names = _names(found, workers)
    found.update(f"{worker}/" for worker in workers)
    for cgroups in (workers, set(map(os.path.dirname, workers))):
        paths = (f"{cgroup}/{name}" for name in _names(found, cgroups) for cgroup in cgroups)
        found.update(path for path in paths if os.path.isfile(path))
    if "memory.stat" not in names:
        found.update(f"/proc/{pid}/statm" for worker in workers for pid in _pids(worker))
    return sorted(found)


def _names(paths: Iterable[str], cgroups: set[str]) -> set[str]:
    """The names of the files among `paths` that lie right in one of `cgroups`."""
    return {os.path.basename(path) for path in paths if os.path.dirname(path) in cgroups}


def _pids(worker: str) -> list[str]:
    with open(f"{worker}/cgroup.procs") as procs:
        return procs.read().split()
