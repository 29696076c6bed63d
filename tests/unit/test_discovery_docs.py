"""docs/discovery.md: its patterns find in the layouts that it prints just what it says."""

import hashlib
import re
import shlex
import uuid
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.trees import build

from worker_exporter.cgroup.identity import compile_pattern, literal_directory
from worker_exporter.cli import parse, run

PAGE = Path(__file__).parents[2] / "docs/discovery.md"
WORKERS = PAGE.with_name("workers.md")
_COMMAND = re.compile(r"^worker-exporter .*$", re.MULTILINE)
_SIGN = re.compile(r"<[^>]*>")
_ROW = re.compile(r"^\| `(\S+)` \| (?:`(\S+)`)? ?\| (?:`(\S+)`)? ?\|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Layout:
    """A command of the page and the table below it: for each cgroup its name, if it is found."""

    flags: tuple[str, ...]
    named: dict[str, tuple[str, str] | None]


def layouts() -> list[Layout]:
    """Every command of the page that a table of cgroups follows."""
    text = PAGE.read_text()
    found = []
    for command in _COMMAND.finditer(text):
        block_end = text.index("```\n", command.end())
        table = re.match(r"```\n\n(\| cgroup .*?)\n\n", text[block_end:], re.DOTALL)
        if table:
            rows = dict(starmap(named, enumerate(_ROW.findall(table[1]))))
            assert len(rows) == table[1].count("\n") - 1, f"a row is not understood: {table[1]}"
            found.append(Layout(tuple(shlex.split(command[0])[1:]), rows))
    return found


def named(number: int, row: tuple[str, str, str]) -> tuple[str, tuple[str, str] | None]:
    """A row's cgroup and its name; in each row the signs stand for another container and pod."""
    container = hashlib.sha256(bytes([number])).hexdigest()
    pod = str(uuid.UUID(container[:32]))
    meanings = {
        "<id>": container,
        "<id:12>": container[:12],
        "<uid>": pod,
        "<uid_>": pod.replace("-", "_"),
    }
    cgroup, service, instance = (_SIGN.sub(lambda sign: meanings[sign[0]], text) for text in row)
    return cgroup, (service, instance) if service else None


LAYOUTS = layouts()


def test_the_page_was_read() -> None:
    """All of its commands but the one that is there to be tried."""
    commands = _COMMAND.findall(PAGE.read_text())
    assert len(LAYOUTS) == len(commands) - 1
    assert [command for command in commands if "| grep" in command] == [commands[0]]
    assert sum(len(layout.named) for layout in LAYOUTS) > 25


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: next(iter(layout.named))[:60])
def test_the_exporter_finds_what_the_page_says(
    layout: Layout, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for cgroup in layout.named:
        build(f"==> {cgroup}/nested/cgroup.procs <==\n", tmp_path / "cgroupfs")
    (tmp_path / "proc").mkdir()
    places = (f"--path.cgroupfs={tmp_path}/cgroupfs", f"--path.procfs={tmp_path}/proc")
    assert run(["once", "--no-collector.units", "--no-collector.gpu", *places, *layout.flags]) == 0
    found = {
        sample.labels["cgroup"]: (sample.labels["service"], sample.labels["instance"])
        for family in text_string_to_metric_families(capfd.readouterr().out)
        for sample in family.samples
        if sample.name == "worker_info"
    }
    assert found == {cgroup: name for cgroup, name in layout.named.items() if name}


def patterns() -> list[str]:
    """Every pattern of this page and of the one on workers."""
    text = PAGE.read_text() + WORKERS.read_text()
    return [
        flag.partition("=")[2]
        for command in _COMMAND.findall(text)
        for flag in shlex.split(command)
        if flag.startswith("--worker.pattern=")
    ]


@pytest.mark.parametrize("pattern", patterns())
def test_a_pattern_does_not_search_the_whole_tree(pattern: str) -> None:
    assert literal_directory(compile_pattern(pattern))


def test_the_doubled_backslashes_are_a_pattern_of_the_page() -> None:
    """What systemd makes of the line for its environment file."""
    (line,) = re.findall(r"^ *ARGS='(.*)'$", PAGE.read_text(), re.MULTILINE)
    flag = line.replace("\\\\", "\\")
    assert flag in [word for layout in LAYOUTS for word in layout.flags]
    assert parse([flag]) is not None
