"""Which files may hold secrets: such as nobody but root or ourselves can read."""

import os
import stat

from worker_sidecar.spec.problems import Key, Problem


def examine(key: Key, path: str) -> Problem | None:
    """What is wrong with the file of secrets at `path`; its contents are not looked at."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Problem(key, f"{path} cannot be examined: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Problem(key, f"{path} is no ordinary file")
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        text = f"{path} can be read or written by others (mode {mode}); run chmod 0600 {path}"
        return Problem(key, text, refused=True)
    if status.st_uid not in (0, os.geteuid()):
        text = f"{path} belongs to uid {status.st_uid}; it must belong to root or to ourselves"
        return Problem(key, text, refused=True)
    return None
