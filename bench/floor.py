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
    """All files an exporter reads, from those it keeps: the same of every worker.

    With enough descriptors these are the kept ones; without, the rest is opened at every scrape.
    """
    kept, workers = set(kept), set(directories)
    names = {os.path.basename(path) for path in kept if os.path.dirname(path) in workers}
    statm = any(map(_STATM.fullmatch, kept))
    found = set(kept)
    for worker in workers:
        found.add(f"{worker}/")
        found.update(f"{worker}/{name}" for name in names if os.path.exists(f"{worker}/{name}"))
        if statm:
            found.update(f"/proc/{pid}/statm" for pid in _pids(worker))
    return sorted(found)


def _pids(worker: str) -> list[str]:
    with open(f"{worker}/cgroup.procs") as procs:
        return procs.read().split()
