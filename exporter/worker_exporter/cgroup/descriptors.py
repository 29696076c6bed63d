"""How many files may be kept open, and reading many of them at once."""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import ne
from typing import Generic, TypeVar

Key = TypeVar("Key")

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_FIRST_READ = 512
_LONGEST_READ = 1 << 16
_PAGE = 4096
_LONG = _PAGE - 64
"""From here on a file may go on: those of many records are handed out a page at a time."""


@dataclass(slots=True)
class Descriptors:
    """How many more descriptors may be kept open; the rest is left to sockets and passing reads."""

    available: int

    @classmethod
    def of_process(cls) -> "Descriptors":
        """What RLIMIT_NOFILE leaves when 512 (at most a quarter) are set aside."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft == resource.RLIM_INFINITY:
            soft = 1 << 20
        return cls(soft - min(512, soft // 4))

    def open(self, path: str, flags: int, directory: int | None = None) -> int | None:
        """A descriptor to keep, or None when none is left. Raises OSError as os.open does."""
        if self.available <= 0:
            return None
        try:
            descriptor = os.open(path, flags, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.available = 0
            return None
        self.available -= 1
        return descriptor

    def close(self, descriptor: int) -> None:
        """Give a kept descriptor back."""
        os.close(descriptor)
        self.available += 1


@dataclass(slots=True)
class Reads(Generic[Key]):
    """One small kernel file for each key, all read at once; what changed is told from the rest.

    A file is read by pread on a descriptor kept open, the kernel's own cost; when no descriptor
    is left (`open_kept` gives None) it is opened by `open_once` at every look.
    """

    open_kept: Callable[[Key], int | None]
    open_once: Callable[[Key], int]
    close: Callable[[int], None]
    _kept: dict[Key, int] = field(default_factory=dict)
    _kept_last: dict[Key, bytes | None] = field(default_factory=dict)
    _loose: dict[Key, bytes | None] = field(default_factory=dict)
    _long: dict[Key, bytes] = field(default_factory=dict)
    _size: int = _FIRST_READ

    def __contains__(self, key: Key) -> bool:
        return key in self._kept or key in self._loose

    def __len__(self) -> int:
        return len(self._kept) + len(self._loose)

    def add(self, key: Key) -> None:
        """Read the file of `key` from now on. Raises OSError when it cannot be opened."""
        descriptor = self.open_kept(key)
        if descriptor is None:
            os.close(self.open_once(key))
            self._loose[key] = None
            return
        self._kept[key] = descriptor
        self._kept_last[key] = None

    def discard(self, key: Key) -> None:
        """Read the file of `key` no more."""
        descriptor = self._kept.pop(key, None)
        if descriptor is not None:
            self.close(descriptor)
        self._kept_last.pop(key, None)
        self._loose.pop(key, None)
        self._long.pop(key, None)

    def forget(self, key: Key) -> None:
        """Take the file of `key` for changed at the next look, whatever it says."""
        self._long.pop(key, None)
        if key in self._kept_last:
            self._kept_last[key] = None
        if key in self._loose:
            self._loose[key] = None

    def changed(self) -> Iterator[tuple[Key, bytes | OSError]]:
        """Each file whose bytes differ from those of the last look, or that cannot be read.

        While this is iterated over no key may be added, and none but the one at hand discarded.
        """
        yield from self._changed_kept()
        if self._loose:
            yield from self._changed_loose()

    def _changed_kept(self) -> Iterator[tuple[Key, bytes | OSError]]:
        size = self._size
        looked: list[bytes | OSError]
        try:
            looked = list(map(os.pread, self._kept.values(), repeat(size), repeat(0)))
        except OSError:
            looked = [self._attempt(descriptor) for descriptor in self._kept.values()]
        pairs = zip(self._kept, looked, strict=True)
        differing = list(compress(pairs, map(ne, looked, self._kept_last.values())))
        for key, data in differing:
            if isinstance(data, OSError):
                self.forget(key)
                yield key, data
            elif len(data) >= min(size, _LONG):
                yield from self._changed_long(key)
            else:
                self._long.pop(key, None)
                self._kept_last[key] = data
                yield key, data

    def _changed_long(self, key: Key) -> Iterator[tuple[Key, bytes | OSError]]:
        """A file that filled the buffer, read again: its parts might be of different moments."""
        try:
            data = _whole(self._kept[key])
        except OSError as error:
            self.forget(key)
            yield key, error
            return
        if len(data) < _LONG:
            self._size = min(_PAGE, max(self._size, 2 * len(data)))
        self._kept_last[key] = None
        if data != self._long.get(key):
            self._long[key] = data
            yield key, data

    def _changed_loose(self) -> Iterator[tuple[Key, bytes | OSError]]:
        for key, last in list(self._loose.items()):
            try:
                data = self._read_once(key)
            except OSError as error:
                self._loose[key] = None
                yield key, error
                continue
            if data != last:
                self._loose[key] = data
                yield key, data

    def _attempt(self, descriptor: int) -> bytes | OSError:
        try:
            return os.pread(descriptor, self._size, 0)
        except OSError as error:
            return error

    def _read_once(self, key: Key) -> bytes:
        descriptor = self.open_once(key)
        try:
            start = os.pread(descriptor, _PAGE, 0)
            return start if len(start) < _LONG else _whole(descriptor)
        finally:
            os.close(descriptor)


def _whole(descriptor: int) -> bytes:
    """All of a file; what one record holds, such as memory.stat, comes from a single read."""
    parts: list[bytes] = []
    position = 0
    while part := os.pread(descriptor, _LONGEST_READ, position):
        parts.append(part)
        position += len(part)
    return b"".join(parts)
