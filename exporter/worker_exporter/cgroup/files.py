"""The interface files of many cgroups, kept open, with their faults told apart."""

import errno
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from worker_exporter.cgroup.descriptors import DIRECTORY_FLAGS, OPEN_FLAGS, Descriptors, Reads

GONE = {errno.ENODEV, errno.ENOENT, errno.ESTALE, errno.ESRCH, errno.ENOTDIR}
"""What the kernel answers for a file, cgroup or process that is no more."""

ABSENT = {errno.EOPNOTSUPP, errno.EINVAL}
"""What it answers for a file that says nothing here, such as cgroup.procs of a threaded cgroup."""


@dataclass(eq=False, slots=True)
class Cgroup:
    """A cgroup directory: `path` below the cgroup root, `location` in the file system.

    `directory` is a descriptor kept on it while there are enough of them.
    """

    path: str
    location: str
    inode: int
    directory: int | None = None

    def open(self, descriptors: Descriptors) -> None:
        """Keep a descriptor on the directory. Raises OSError when it is gone or denied."""
        self.directory = descriptors.open(self.location, DIRECTORY_FLAGS)

    def close(self, descriptors: Descriptors) -> None:
        """Give the descriptor on the directory back."""
        if self.directory is not None:
            descriptors.close(self.directory)
            self.directory = None

    def open_file(self, name: str) -> int:
        """A descriptor of the interface file `name`, to be closed by the caller."""
        if self.directory is None:
            return os.open(f"{self.location}/{name}", OPEN_FLAGS)
        return os.open(name, OPEN_FLAGS, dir_fd=self.directory)

    def keep_file(self, name: str, descriptors: Descriptors) -> int | None:
        """As open_file, to be kept; None when no descriptor is left to keep."""
        if self.directory is None:
            return descriptors.open(f"{self.location}/{name}", OPEN_FLAGS)
        return descriptors.open(name, OPEN_FLAGS, self.directory)

    def exists(self) -> bool:
        """Whether this very cgroup is still there: one of the same name is another one."""
        try:
            return os.stat(self.location).st_ino == self.inode
        except OSError:
            return False

    def links(self) -> int:
        """The directory's link count: two more than the cgroups directly below it."""
        return os.stat(self.location if self.directory is None else self.directory).st_nlink


@dataclass(slots=True)
class Faults:
    """What went wrong in one pass: cgroups that vanished, reads that failed, by file."""

    vanished: set[Cgroup] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    foreign_processes: bool = False

    def clear(self) -> None:
        """Begin a new pass; read errors are counted on."""
        self.vanished.clear()


@dataclass(slots=True)
class Kernel:
    """What the readers of a scrape share: where the kernel's files are, and what went wrong."""

    procfs: str
    sysfs: str
    descriptors: Descriptors
    faults: Faults


Process = TypeVar("Process")


def process_reads(name: str, kernel: Kernel, pid_of: Callable[[Process], int]) -> Reads[Process]:
    """Reads of the file `name`, such as statm, in /proc/PID of many processes.

    A kept descriptor stays with its process, whoever gets its PID afterwards.
    """

    def path(process: Process) -> str:
        return f"{kernel.procfs}/{pid_of(process)}/{name}"

    return Reads(
        open_kept=lambda process: kernel.descriptors.open(path(process), OPEN_FLAGS),
        open_once=lambda process: os.open(path(process), OPEN_FLAGS),
        close=kernel.descriptors.close,
    )


Owner = TypeVar("Owner", bound=Cgroup)


class InterfaceFile(Generic[Owner]):
    """One interface file, such as cpu.stat, of every cgroup that has it."""

    def __init__(self, name: str, kernel: Kernel) -> None:
        self.name = name
        self._faults = kernel.faults
        self._faults.errors[name] += 0
        descriptors = kernel.descriptors
        self._reads: Reads[Owner] = Reads(
            open_kept=lambda cgroup: cgroup.keep_file(name, descriptors),
            open_once=lambda cgroup: cgroup.open_file(name),
            close=descriptors.close,
        )
        self._was_there = False
        self._missing: set[Owner] = set()
        self._denied: set[Owner] = set()

    def add(self, cgroup: Owner) -> None:
        """Read the file of `cgroup` from now on, if it is there."""
        try:
            self._reads.add(cgroup)
        except OSError as error:
            self._failed(cgroup, error)
        else:
            self._was_there = True

    def remove(self, cgroup: Owner) -> None:
        """Read the file of `cgroup` no more."""
        self._reads.discard(cgroup)
        self._missing.discard(cgroup)
        self._denied.discard(cgroup)

    def look_again(self, cgroup: Owner) -> None:
        """Try a file that was missing once more: its controller may have been enabled since."""
        if cgroup in self._missing:
            self._missing.discard(cgroup)
            self.add(cgroup)

    def retry_missing(self) -> None:
        """Try missing files once more: one of them only while none was ever there."""
        for cgroup in list(self._missing):
            self.look_again(cgroup)
            if not self._was_there:
                return

    def refresh(self, cgroup: Owner) -> None:
        """Have `changed` tell the file of `cgroup` at the next pass, whether it changed or not."""
        self._reads.forget(cgroup)

    def changed(self) -> Iterator[tuple[Owner, bytes | None]]:
        """Each cgroup whose file changed since the last pass; None: it cannot be read any more."""
        for cgroup in list(self._denied):
            self._denied.discard(cgroup)
            self.add(cgroup)
            if cgroup in self._missing:
                yield cgroup, None
        removed = yield from self._tell()
        # A file that went may have come back since: its controller was switched off and on.
        for cgroup in removed:
            self.look_again(cgroup)
        if any(cgroup in self._reads for cgroup in removed):
            yield from self._tell()

    def _tell(self) -> Generator[tuple[Owner, bytes | None], None, list[Owner]]:
        """As `changed`, for the files that could be opened. Returns whose file was removed."""
        removed = []
        for cgroup, data in self._reads.changed():
            if isinstance(data, OSError):
                self._failed(cgroup, data)
                if data.errno in GONE:
                    removed.append(cgroup)
                yield cgroup, None
            else:
                yield cgroup, data
        return removed

    def __contains__(self, cgroup: Owner) -> bool:
        """Whether the file of `cgroup` is there to be read."""
        return cgroup in self._reads

    def is_denied(self, cgroup: Owner) -> bool:
        """Whether the file of `cgroup` is there but could not be read."""
        return cgroup in self._denied

    def bad(self, cgroup: Owner) -> None:
        """Count a file whose content made no sense, and look at it again at the next pass."""
        self._faults.errors[self.name] += 1
        self._reads.forget(cgroup)

    def _failed(self, cgroup: Owner, error: OSError) -> None:
        if error.errno in ABSENT:
            self._forgo(cgroup, self._missing)
        elif error.errno not in GONE:
            self._faults.errors[self.name] += 1
            self._forgo(cgroup, self._denied)
        elif cgroup.exists():
            self._forgo(cgroup, self._missing)
        else:
            self._faults.vanished.add(cgroup)

    def _forgo(self, cgroup: Owner, reason: set[Owner]) -> None:
        self._reads.discard(cgroup)
        reason.add(cgroup)
