"""Fixture trees: cgroupfs, procfs and sysfs as files, from what `tail -n +1 FILES` prints."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tools import missing
from worker_exporter.cgroup.descriptors import Descriptors
from worker_exporter.cgroup.files import Faults, Kernel

_HEADER = re.compile(r"(?m)(?:^|\n)==> (.*) <==\n")


def build(text: str, root: Path) -> None:
    """Make the files that `text` lists, below `root`; files that are there are written in place.

    Each block `==> PATH <==` holds the content of a file, as tail prints it. `==> PATH/ <==` is an
    empty directory, `==> PATH -> TARGET <==` a symbolic link, and `==> PATH (xattrs) <==` holds
    lines of NAME=VALUE, extended attributes of what PATH names.
    """
    _, *blocks = _HEADER.split(text)
    for header, content in zip(blocks[::2], blocks[1::2], strict=True):
        _make(header, content, root)


def _make(header: str, content: str, root: Path) -> None:
    name, arrow, target = header.partition(" -> ")
    path = root / name.removesuffix(" (xattrs)")
    path.parent.mkdir(parents=True, exist_ok=True)
    if arrow:
        path.symlink_to(target)
    elif name.endswith("/"):
        path.mkdir(exist_ok=True)
    elif name.endswith(" (xattrs)"):
        for line in content.splitlines():
            attribute, _, value = line.partition("=")
            set_attribute(path, attribute, value.encode())
    else:
        path.write_text(content)


def set_attribute(path: Path, name: str, value: bytes) -> None:
    """Set an extended attribute; the test is skipped where the file system has none."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        missing(f"extended attributes on {path}")


def kernel(root: Path, available: int = 1000) -> Kernel:
    """What readers share, for a tree below `root`, with `available` descriptors to keep."""
    return Kernel(f"{root}/proc", f"{root}/sys", Descriptors(available), Faults())


class KernelManners:
    """Gives ordinary files the manners of kernel files, for a test of this process.

    A kept descriptor of a removed file answers ENODEV; a file in `refusing` (by inode) answers its
    errno when it is opened or read.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusing: dict[int, int] = {}
        self._open: Callable[..., int] = os.open
        self._pread: Callable[[int, int, int], bytes] = os.pread
        monkeypatch.setattr(os, "open", self._open_as_kernel)
        monkeypatch.setattr(os, "pread", self._pread_as_kernel)

    def refuse(self, path: Path, number: int) -> None:
        """Let `path` answer the errno `number` from now on."""
        self.refusing[path.stat().st_ino] = number

    def _open_as_kernel(self, *arguments: Any, **named: Any) -> int:
        descriptor = self._open(*arguments, **named)
        number = self.refusing.get(os.fstat(descriptor).st_ino)
        if number is None:
            return descriptor
        os.close(descriptor)
        raise OSError(number, os.strerror(number))

    def _pread_as_kernel(self, descriptor: int, length: int, offset: int) -> bytes:
        status = os.fstat(descriptor)
        if not status.st_nlink:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        number = self.refusing.get(status.st_ino)
        if number is not None:
            raise OSError(number, os.strerror(number))
        return self._pread(descriptor, length, offset)
