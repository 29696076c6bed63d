"""The floor: what the kernel alone takes for the files that the exporter reads."""

import contextlib
import os
import re
import resource
from collections.abc import Iterable, Iterator, Sequence

from bench.helper import Helper, running_helper
from bench.process import open_paths
from bench.workers import Workers

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


def kept_files(pid: int, workers: Workers) -> list[str]:
    """What an exporter keeps open to read at every scrape: cgroup files, workers' directories (with
    a final "/") and statm files. Other directories only lead to files.
    """
    paths = open_paths(pid)
    directories = set(workers.directories).intersection(paths)
    files = [path for path in paths if path.startswith(f"{workers.root}/") and os.path.isfile(path)]
    statm = filter(_STATM.fullmatch, paths)
    return sorted([*files, *(f"{path}/" for path in directories), *statm])


def read_files(sample: Iterable[str], directories: Iterable[str]) -> list[str]:
    """All files an exporter reads of the workers in `directories`.

    `sample` are those that it keeps open for one worker alone: the same of every worker, every
    slice right above one and every process. One with all workers keeps the same where it has
    descriptors enough; where not, it opens the rest at every scrape.
    """
    sample, workers = set(sample), set(directories)
    found = {path for path in sample if not _STATM.fullmatch(path)}
    found.update(f"{worker}/" for worker in workers)
    for cgroups in (workers, set(map(os.path.dirname, workers))):
        names = _names(sample, cgroups)
        found.update(f"{cgroup}/{name}" for name in names for cgroup in cgroups)
    if any(map(_STATM.fullmatch, sample)):
        found.update(f"/proc/{pid}/statm" for worker in workers for pid in _pids(worker))
    return sorted(found)


def _names(paths: Iterable[str], cgroups: set[str]) -> set[str]:
    """The names of the files among `paths` that lie right in one of `cgroups`."""
    return {os.path.basename(path) for path in paths if os.path.dirname(path) in cgroups}


def _pids(worker: str) -> list[str]:
    with open(f"{worker}/cgroup.procs") as procs:
        return procs.read().split()
