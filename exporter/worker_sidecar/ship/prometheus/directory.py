"""Rule files in a directory: known as ours by their first line, replaced together or not at all."""

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from worker_exporter import log
from worker_sidecar.errors import InputError, SidecarError
from worker_sidecar.ship.compare import diff, digest_of_text
from worker_sidecar.ship.errors import ConflictError
from worker_sidecar.ship.outcome import Change, Step
from worker_sidecar.ship.rules import RuleFile

_STAMP = re.compile(r"# Shipped by worker-sidecar, sha256:([0-9a-f]+)\.[^\n]*\n")
_BY_HAND = "changed since it was shipped, or never shipped; --dry-run shows the differences"


@dataclass(frozen=True, slots=True)
class Placed:
    """A file of the directory: its content until now (None: absent), and the one to be shipped."""

    path: str
    old: bytes | None
    new: bytes
    step: Step

    @property
    def written(self) -> bool:
        """Whether it is to be written."""
        return self.step.change in (Change.CREATED, Change.UPDATED)


def placed(directory: str, files: Sequence[RuleFile], prefix: str, force: bool) -> Sequence[Placed]:
    """What is to be done with each of `files` in `directory`. Raises InputError, OSError."""
    if "/" in prefix:
        raise InputError("--prefix is a part of the files' names, without /")
    if not os.path.isdir(directory):
        raise InputError(f"{directory} is no directory; make it, and have rule_files name it")
    return [_placed(os.path.join(directory, prefix + file.name), file, force) for file in files]


@contextlib.contextmanager
def written(files: Sequence[Placed]) -> Iterator[None]:
    """The files are in place from here on, all of them; put back as they were when the body fails.

    Each is replaced in one step, so that a Prometheus never reads a half of one. Raises OSError,
    InputError for a file that Prometheus could not read any more, ConflictError for one that
    somebody changed since it was looked at, SidecarError for files that cannot be put back.
    """
    temporary: list[tuple[Placed, str]] = []
    done: list[Placed] = []
    try:
        temporary += ((file, _beside(file)) for file in files if file.written)
        for file, path in temporary:
            _check_untouched(file)
            os.replace(path, _real(file.path))
            done.append(file)
        _sync_directories(done)
        yield
    except BaseException as error:
        _undo(done, error)
        raise
    finally:
        for _, path in temporary[len(done) :]:
            os.unlink(path)


def _placed(path: str, file: RuleFile, force: bool) -> Placed:
    old = _content(path)
    first = (
        f"# Shipped by worker-sidecar, sha256:{digest_of_text(file.text)}."
        " It is shipped anew over this, unless it is changed here.\n"
    )
    new = (first + file.text).encode()
    name = os.path.basename(path)
    if old is None:
        return Placed(path, None, new, Step(name, Change.CREATED))
    change, why = _judged(old, new, file, force)
    lines: Sequence[str] = ()
    if change is not Change.UNCHANGED:
        lines = tuple(diff(name, _rest(old), file.text))
    return Placed(path, old, new, Step(name, change, why, lines))


def _judged(old: bytes, new: bytes, file: RuleFile, force: bool) -> tuple[Change, str]:
    if old == new:
        return Change.UNCHANGED, ""
    if _is_ours(old) or _rest(old) == file.text:
        return Change.UPDATED, ""
    return (Change.UPDATED, f"forced: {_BY_HAND}") if force else (Change.REFUSED, _BY_HAND)


def _is_ours(content: bytes) -> bool:
    """Whether it was shipped, and is as it was then."""
    match = _STAMP.match(content.decode(errors="replace"))
    return match is not None and match[1] == digest_of_text(_rest(content))


def _rest(content: bytes) -> str:
    """The text behind the stamp."""
    return _STAMP.sub("", content.decode(errors="replace"), count=1)


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _real(path: str) -> str:
    """What a symbolic link stands for: that is replaced, not the link."""
    return os.path.realpath(path)


def _beside(file: Placed) -> str:
    """A complete file beside the one that it will replace, with its mode and owner."""
    path = _real(file.path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".worker-sidecar-")
    try:
        with os.fdopen(descriptor, "wb") as writer:
            writer.write(file.new)
            _as_before(writer.fileno(), path)
            writer.flush()
            os.fsync(writer.fileno())
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def _as_before(descriptor: int, path: str) -> None:
    """Mode and owner of `path`; where it is new all may read it, for Prometheus is another user.

    Raises InputError where it would lose those who may read it.
    """
    try:
        before = os.stat(path)
    except FileNotFoundError:
        os.fchmod(descriptor, 0o644)
        return
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    now = os.fstat(descriptor)
    is_kept = (now.st_uid, now.st_gid) == (before.st_uid, before.st_gid)
    if not is_kept and not before.st_mode & stat.S_IROTH:
        raise InputError(
            f"{path} cannot keep its owner and group, and others may not read it;"
            " be root, or let everybody read it"
        )
    os.fchmod(descriptor, before.st_mode & 0o777)


def _check_untouched(file: Placed) -> None:
    if _content(file.path) != file.old:
        raise ConflictError(f"{file.path} was changed at this moment by somebody else, try again")


def _undo(done: Sequence[Placed], error: BaseException) -> None:
    """Put all back after `error`. Raises a SidecarError that says what became of the files."""
    left = [file.path for file in done if not _is_put_back(file)]
    if left:
        why = str(error) or "interrupted"
        raise SidecarError(f"{why}\nnot put back as it was: {', '.join(left)}") from error
    if done and isinstance(error, SidecarError):
        raise type(error)(f"{error}\nthe files are put back as they were") from None


def _is_put_back(file: Placed) -> bool:
    try:
        _put_back(file)
    except (OSError, InputError) as error:
        log.warn("not put back", file=file.path, err=str(error))
        return False
    return True


def _put_back(file: Placed) -> None:
    if file.old is None:
        os.unlink(_real(file.path))
        return
    earlier = Placed(file.path, file.new, file.old, file.step)
    os.replace(_beside(earlier), _real(file.path))


def _sync_directories(files: Sequence[Placed]) -> None:
    for directory in {os.path.dirname(_real(file.path)) for file in files}:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
