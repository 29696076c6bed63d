"""The whole answer on each fixture tree is its golden file, and a Prometheus takes it."""

import re
import subprocess
from pathlib import Path

import pytest
from bench.client import ACCEPT as PROMETHEUS_ACCEPT

from tests.golden.answers import HERE, NAMES, answers, nvidia, raw_answers
from tests.parsers import read_openmetrics, read_text
from tests.tools import require
from worker_exporter.web.negotiation import Format, choose_format

FORMATS = {".prom": read_text, ".om": read_openmetrics}


def test_prometheus_gets_the_openmetrics_one() -> None:
    assert choose_format(PROMETHEUS_ACCEPT) is Format.OPENMETRICS


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_the_golden_file(name: str, tmp_path: Path) -> None:
    found = answers(name, tmp_path)
    for suffix, answer in found.items():
        assert answer.decode() == (HERE / f"{name}{suffix}").read_text(), (
            "read the difference; when it is meant: make golden"
        )


def test_the_machines_own_gpus_are_in_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nvidia("gpu"):
        monkeypatch.setattr("worker_exporter.gpu.drivers._NVIDIA_NODES", (__file__,))
        assert answers("plain", tmp_path)[".prom"].decode() == (HERE / "plain.prom").read_text()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_clients_own_parser_reads_it(name: str, suffix: str) -> None:
    families = list(FORMATS[suffix](golden(name, suffix)))
    samples = [
        (sample.name, *sorted(sample.labels.items()))
        for family in families
        for sample in family.samples
    ]
    assert len(families) == len({family.name for family in families})
    assert len(samples) == len(set(samples))
    assert any(name == "worker_cpu_seconds_total" for name, *_ in samples)


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_say_the_same(name: str) -> None:
    both = [samples(golden(name, suffix)) for suffix in FORMATS]
    assert both[0] == both[1]


@pytest.mark.parametrize("name", NAMES)
def test_promtool_finds_nothing_to_say(name: str) -> None:
    promtool = require("promtool")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=golden(name, ".prom"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def golden(name: str, suffix: str) -> str:
    """A golden file with a figure in the place of what was left open."""
    return re.sub(r"(?m) ~$", " 1", (HERE / f"{name}{suffix}").read_text())


def samples(answer: str) -> list[str]:
    """The lines of samples, as numbers are the same whatever their form."""
    lines = [line.rpartition(" ") for line in answer.splitlines() if not line.startswith("#")]
    return sorted(f"{start} {float(value)!r}" for start, _, value in lines)


def test_one_worker_with_everything_stays_within_its_series() -> None:
    of_worker = [
        line
        for line in samples(golden("unified", ".om"))
        if 'service="llm",instance="8080"' in line and 'device="dm-0"' not in line
    ]
    assert 40 < len(of_worker) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_workers_come_in_one_order_in_all_families(name: str, tmp_path: Path) -> None:
    order: dict[str, list[str]] = {}
    for line in raw_answers(name, tmp_path)[".om"].decode().splitlines():
        worker = re.match(r'(\w+)\{(service="[^"]*",instance="[^"]*")', line)
        if worker and worker[2] not in order.setdefault(worker[1], []):
            order[worker[1]].append(worker[2])
    everybody = order["worker_info"]
    for family, workers in order.items():
        # What had to be looked up, and what needs two looks, comes as it becomes known.
        if family.endswith(("_start_time_seconds", "_pct", "_per_second")):
            continue
        # Dead ones, which only systemd knows, come after the living.
        living = [each for each in workers if each in everybody]
        assert living == [each for each in everybody if each in workers], family
        assert workers[: len(living)] == living, family
