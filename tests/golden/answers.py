"""What the exporter answers on a fixture tree, the same on every machine and at every time."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

from tests.fake_systemd import FakeSystemd
from tests.nvml.standin import library
from tests.trees import build
from worker_exporter.cli import parse
from worker_exporter.scrape import Scraper, Settings
from worker_exporter.systemd.membership import SYSTEM

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.tree"))
SECONDS_BETWEEN = 10.0
UID = 1000
PATIENCE = 60.0
"""Seconds until what a scrape asks others is left out of the answer."""

_VOLATILE = re.compile(rb"(?m)^((?:process_\w+|worker_exporter_\w+_seconds)(?:\{.*\})?) .*$")
_VERSIONS = re.compile(rb'(version|python)="[^"]*"')


def answers(name: str, root: Path) -> dict[str, bytes]:
    """The answers in both formats, by the suffix of their golden file, on the tree `name`.

    The tree is built in the empty directory `root`. What differs from one run to the next is "~".
    """
    return {suffix: _steady(answer) for suffix, answer in raw_answers(name, root).items()}


def raw_answers(name: str, root: Path) -> dict[str, bytes]:
    """As `answers`, just as a client gets them."""
    with (
        patch("time.monotonic", return_value=1000.0) as clock,
        patch("os.getuid", return_value=UID),
        systemd(name, root) as buses,
        nvidia(name),
    ):
        build((HERE / f"{name}.tree").read_text(), root)
        scraper = Scraper(replace(_settings(name, root), buses=buses))
        try:
            snapshot = scraper.scrape(scraper.names, PATIENCE)
            then = HERE / f"{name}.then"
            if then.exists():
                build(then.read_text(), root)
                clock.return_value += SECONDS_BETWEEN
                snapshot = scraper.scrape(scraper.names, PATIENCE)
            return {".prom": snapshot.text(), ".om": snapshot.openmetrics()}
        finally:
            scraper.close()


@contextmanager
def systemd(name: str, root: Path) -> Iterator[dict[str, str]]:
    """The address of a systemd with the units of NAME.units, where there are any."""
    units = HERE / f"{name}.units"
    if not units.exists():
        yield {}
        return
    spec = json.loads(units.read_text())
    with FakeSystemd(str(root / "bus"), spec["units"]) as serving:
        serving.version = spec["version"]
        yield {SYSTEM: serving.address}


@contextmanager
def nvidia(name: str) -> Iterator[None]:
    """The stand-in for NVIDIA's driver with the devices of NAME.nvml, where there are any; the
    machine's own have none. Whether a driver is loaded is for the tree to say.
    """
    scenario = HERE / f"{name}.nvml"
    found = {}
    if scenario.exists():
        found = {"NVML_SCENARIO": str(scenario), "LD_LIBRARY_PATH": library()}
    with (
        patch("worker_exporter.gpu.drivers._NVIDIA_NODES", ()),
        patch.dict(os.environ, found),
    ):
        yield


def _settings(name: str, root: Path) -> Settings:
    places = [
        f"--path.cgroupfs={root / 'cgroupfs'}",
        f"--path.procfs={root / 'proc'}",
        f"--path.sysfs={root / 'sys'}",
    ]
    flags = (HERE / f"{name}.args").read_text().split()
    parsed = parse([*places, *flags, "once"])
    assert parsed is not None
    return parsed.settings


def _steady(answer: bytes) -> bytes:
    """`answer` with what varies marked, and the samples of each family in one order."""
    answer = _VERSIONS.sub(rb'\1="~"', _VOLATILE.sub(rb"\1 ~", answer))
    families = groupby(answer.splitlines(keepends=True), lambda line: line.startswith(b"#"))
    return b"".join(b"".join(lines if said else sorted(lines)) for said, lines in families)


def renew(root: Path) -> None:
    """Write all golden files, building the trees below the empty directory `root`."""
    for name in NAMES:
        place = root / name
        os.mkdir(place)
        for suffix, answer in answers(name, place).items():
            (HERE / f"{name}{suffix}").write_bytes(answer)
