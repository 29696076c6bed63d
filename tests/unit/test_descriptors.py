"""Many files read at once: what is told as changed is what changed, whatever was done to them."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from worker_exporter.cgroup.descriptors import OPEN_FLAGS, Descriptors, Reads

BORDER = range(4030, 4100)


def reads_below(root: Path, descriptors: Descriptors) -> Reads[str]:
    return Reads(
        open_kept=lambda name: descriptors.open(f"{root}/{name}", OPEN_FLAGS),
        open_once=lambda name: os.open(f"{root}/{name}", OPEN_FLAGS),
        close=descriptors.close,
    )


def changed(reads: Reads[str]) -> dict[str, bytes | OSError]:
    told = list(reads.changed())
    assert len(told) == len(dict(told))
    return dict(told)


@pytest.fixture(params=[10, 1, 0], ids=["kept", "few", "none"])
def reads(request: pytest.FixtureRequest, tmp_path: Path) -> Reads[str]:
    return reads_below(tmp_path, Descriptors(request.param))


def add(reads: Reads[str], tmp_path: Path, **contents: bytes) -> None:
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        reads.add(name)


def test_only_what_changed_is_told(reads: Reads[str], tmp_path: Path) -> None:
    add(reads, tmp_path, a=b"1\n", b=b"2\n", c=b"")
    assert changed(reads) == {"a": b"1\n", "b": b"2\n", "c": b""}
    assert changed(reads) == {}
    (tmp_path / "b").write_bytes(b"3\n")
    assert changed(reads) == {"b": b"3\n"}
    reads.forget("a")
    assert changed(reads) == {"a": b"1\n"}
    reads.discard("a")
    (tmp_path / "a").write_bytes(b"9\n")
    assert changed(reads) == {}
    assert "a" not in reads
    assert len(reads) == 2


@pytest.mark.parametrize("size", [1, 511, 512, 513, 1023, 4031, 4032, 4095, 4096, 4097, 20_000])
def test_a_byte_anywhere_is_told(reads: Reads[str], tmp_path: Path, size: int) -> None:
    content = bytearray(b"x" * size)
    add(reads, tmp_path, a=bytes(content))
    assert changed(reads) == {"a": bytes(content)}
    for position in {0, size // 2, size - 1}:
        content[position] ^= 1
        (tmp_path / "a").write_bytes(content)
        assert changed(reads) == {"a": bytes(content)}


def test_growing_and_shrinking_over_a_page(reads: Reads[str], tmp_path: Path) -> None:
    add(reads, tmp_path, a=b"")
    changed(reads)
    for size in (*BORDER, *reversed(BORDER)):
        (tmp_path / "a").write_bytes(b"x" * size)
        assert changed(reads).get("a", b"x" * size) == b"x" * size


@pytest.mark.parametrize(("short", "long"), [(10, 600), (10, 5000), (600, 4090), (511, 512)])
def test_to_long_and_back_with_the_same_content(
    reads: Reads[str], tmp_path: Path, short: int, long: int
) -> None:
    add(reads, tmp_path, a=b"")
    changed(reads)
    for size in (short, long, short, long, long + 1, long, short):
        (tmp_path / "a").write_bytes(b"x" * size)
        assert changed(reads) == {"a": b"x" * size}


def test_a_long_file_before_another_in_one_pass_cuts_neither(
    reads: Reads[str], tmp_path: Path
) -> None:
    add(reads, tmp_path, a=b"x" * 600, b=b"y" * 5000)
    assert changed(reads) == {"a": b"x" * 600, "b": b"y" * 5000}


def test_files_that_are_not_there_are_said_at_once(reads: Reads[str]) -> None:
    with pytest.raises(FileNotFoundError):
        reads.add("none")
    assert "none" not in reads


def test_a_kept_descriptor_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = Descriptors(10)
    reads = reads_below(tmp_path, descriptors)
    add(reads, tmp_path, a=b"1\n", b=b"2\n", c=b"3\n")
    changed(reads)
    refuse(monkeypatch, tmp_path / "b", errno.ENODEV)
    (tmp_path / "c").write_bytes(b"4\n")
    told = changed(reads)
    assert isinstance(told["b"], OSError)
    assert told["b"].errno == errno.ENODEV
    assert told["c"] == b"4\n"
    assert told.keys() == {"b", "c"}
    monkeypatch.undo()
    assert changed(reads) == {"b": b"2\n"}


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EIO])
def test_a_long_file_that_fails_half_way_is_no_shorter_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    reads = reads_below(tmp_path, Descriptors(10))
    add(reads, tmp_path, a=b"x" * 9000)
    refuse(monkeypatch, tmp_path / "a", number, after=1)
    [(name, error)] = reads.changed()
    assert name == "a"
    assert isinstance(error, OSError)


def test_descriptors_are_counted_and_given_back(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    descriptors = Descriptors(2)
    reads = reads_below(tmp_path, descriptors)
    add(reads, tmp_path, a=b"1\n", b=b"2\n", c=b"3\n")
    assert descriptors.available == 0
    assert changed(reads) == {"a": b"1\n", "b": b"2\n", "c": b"3\n"}
    for name in "abc":
        reads.discard(name)
    assert descriptors.available == 2
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_host_without_descriptors_left_is_read_without_keeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*arguments: object, **named: object) -> int:
        raise OSError(number, os.strerror(number))

    descriptors = Descriptors(10)
    monkeypatch.setattr(os, "open", full)
    assert descriptors.open(str(tmp_path), OPEN_FLAGS) is None
    assert descriptors.available == 0


@pytest.mark.parametrize(("soft", "kept"), [(1024, 768), (4096, 3584), (65536, 65024), (64, 48)])
def test_some_descriptors_are_left_to_others(
    monkeypatch: pytest.MonkeyPatch, soft: int, kept: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, soft))
    assert Descriptors.of_process().available == kept


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, number: int, after: int = 0) -> None:
    """Let reads of `path` fail with `number`, from the one at index `after` on."""
    inode = path.stat().st_ino
    pread: Callable[[int, int, int], bytes] = os.pread
    seen = 0

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        nonlocal seen
        if os.fstat(descriptor).st_ino == inode:
            seen += 1
            if seen > after:
                raise OSError(number, os.strerror(number))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)


NAMES = "ab"
sizes = st.one_of(
    st.sampled_from([0, 10, 600, 5000]),
    st.sampled_from([511, 512, 513, 1024, 2047, *BORDER, 8192, 70_000]),
)


class AnySequence(RuleBasedStateMachine):
    """Files are written, removed and made anew; `told` is what a reader would remember."""

    names = st.sampled_from(NAMES)

    @initialize(budget=st.sampled_from([0, 1, 2, 100]))
    def begin(self, budget: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.descriptors = Descriptors(budget)
        self.budget = budget
        self.reads = reads_below(self.root, self.descriptors)
        self.told: dict[str, bytes] = {}

    @rule(name=names, size=sizes, filler=st.sampled_from(b"xxxy"))
    def write(self, name: str, size: int, filler: int) -> None:
        (self.root / name).write_bytes(bytes([filler]) * size)
        self.look()

    @rule(name=names, position=st.integers(0, 70_000))
    def flip(self, name: str, position: int) -> None:
        path = self.root / name
        content = bytearray(path.read_bytes() if path.exists() else b"")
        if content:
            content[position % len(content)] ^= 1
            path.write_bytes(content)

    @rule(name=names)
    def follow(self, name: str) -> None:
        if name not in self.reads and (self.root / name).exists():
            self.reads.add(name)

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.reads.discard(name)
        self.told.pop(name, None)

    @rule(name=names)
    def make_anew(self, name: str) -> None:
        self.leave(name)
        (self.root / name).unlink(missing_ok=True)
        (self.root / name).write_bytes(b"new\n")
        self.reads.add(name)

    @rule(name=names)
    def forget(self, name: str) -> None:
        if name in self.reads:
            self.reads.forget(name)
            self.told.pop(name, None)

    @rule()
    def look(self) -> None:
        for name, data in self.reads.changed():
            assert isinstance(data, bytes)
            self.told[name] = data
        followed = [name for name in NAMES if name in self.reads]
        assert self.told == {name: (self.root / name).read_bytes() for name in followed}

    @invariant()
    def no_descriptor_is_lost(self) -> None:
        if hasattr(self, "reads"):
            kept = sum(name in self.reads._kept for name in NAMES)
            assert self.descriptors.available == self.budget - kept

    def teardown(self) -> None:
        if hasattr(self, "reads"):
            for name in NAMES:
                self.reads.discard(name)
            self.directory.cleanup()


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
