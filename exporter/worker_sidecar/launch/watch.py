"""Waits for a file to change, by inotify(7)."""

import ctypes
import os
import select

_MODIFY = 0x2
_MOVED_TO = 0x80
_CREATE = 0x100
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_LIBC = ctypes.CDLL(None, use_errno=True)

_LOOK_AGAIN = 1.0
"""Seconds between two looks where the kernel gives us no watch (fs.inotify.max_user_watches)."""


class FileWatch:
    """Tells when the file `path` grows, or another one takes its name. One thread may wait while
    another one calls stop(); close() when nobody waits any more.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stopped, self._stop = os.pipe2(_NONBLOCK_CLOEXEC)
        self._inotify = _LIBC.inotify_init1(_NONBLOCK_CLOEXEC)
        self._file = -1
        self._complete = self._add(os.path.dirname(path), _CREATE | _MOVED_TO) >= 0
        self.follow()

    def follow(self) -> None:
        """Watch the file that has the name now; call it before reading one that is new."""
        if self._file >= 0:
            _LIBC.inotify_rm_watch(self._inotify, self._file)
        self._file = self._add(self._path, _MODIFY)

    def wait(self) -> bool:
        """Wait until there may be something new; False once stop() was called."""
        poll = select.poll()
        poll.register(self._stopped, select.POLLIN)
        watched = self._complete and self._file >= 0
        if self._inotify >= 0:
            poll.register(self._inotify, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(None if watched else _LOOK_AGAIN * 1000)}
        if self._inotify in ready:
            os.read(self._inotify, 65536)
        return self._stopped not in ready

    def stop(self) -> None:
        """End the wait of now, and every later one."""
        os.write(self._stop, b"x")

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._stopped, self._stop, self._inotify):
            if descriptor >= 0:
                os.close(descriptor)

    def _add(self, path: str, events: int) -> int:
        """The watch's number, -1 where there is none."""
        if self._inotify < 0:
            return -1
        return int(_LIBC.inotify_add_watch(self._inotify, os.fsencode(path), events))
