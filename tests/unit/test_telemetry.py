"""States of workers: of every combination of facts, and from the facts of a pass."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.trees import build, set_attribute

from worker_exporter.cgroup.identity import Identity
from worker_exporter.collectors.health import HealthCollector
from worker_exporter.scrape import Scraper, Settings, default_collectors
from worker_exporter.systemd.membership import SYSTEM
from worker_exporter.systemd.unit import Details, Report, Unit
from worker_exporter.telemetry import BUSY_THRESHOLD, Facts, State, Telemetry, state_of

LLM = Identity("llm", "8080")


def unit(active: str, sub: str = "") -> Unit:
    return Unit("worker-llm@8080.service", active, sub, 0)


UNITS = {
    "none": None,
    "active": unit("active", "running"),
    "reloading": unit("reloading", "reload"),
    "activating": unit("activating", "start-pre"),
    "auto-restart": unit("activating", "auto-restart"),
    "queued": unit("activating", "auto-restart-queued"),
    "deactivating": unit("deactivating", "stop-sigterm"),
    "inactive": unit("inactive", "dead"),
    "failed": unit("failed", "failed"),
}
FLAGS = {"yes": True, "no": False, "?": None}
PROBES = {  # probed, passed_once, ready
    "none": (False, False, None),
    "removed": (False, True, None),  # after it passed
    "never": (True, False, False),  # fails, and never passed
    "unsaid": (True, False, None),  # as never, and now silent
    "passes": (True, True, True),
    "fails": (True, True, False),
    "silent": (True, True, None),  # passed once, and nobody has asked for a while
}
CPU = {"idle": BUSY_THRESHOLD, "busy": BUSY_THRESHOLD + 0.01, "?": None}
DIMENSIONS: tuple[Mapping[str, object], ...] = (UNITS, FLAGS, FLAGS, PROBES, CPU)

TABLE = """
unit                   populated  frozen  probe         cpu     state
failed                 *          *       *             *       error
auto-restart,queued    *          *       *             *       error
deactivating,inactive  *          *       *             *       stopped
activating             *          yes     *             *       frozen
activating             *          no,?    *             *       starting
none,active,reloading  no         *       *             *       stopped
none,active,reloading  yes,?      yes     *             *       frozen
none,active,reloading  yes,?      no,?    never,unsaid  *       starting
none,active,reloading  yes,?      no,?    fails         *       error
none,active,reloading  yes,?      no,?    passes        busy    busy
none,active,reloading  yes,?      no,?    passes        idle,?  ready
none,active,reloading  yes,?      no,?    silent        busy    busy
none,active,reloading  yes,?      no,?    silent        idle,?  null
none,active,reloading  yes,?      no,?    none,removed  busy    busy
none,active,reloading  yes        no,?    none,removed  idle,?  ready
none,active,reloading  ?          no,?    none,removed  idle,?  null
"""
"""Each combination is in one row: the order of the rows says nothing."""

ROWS = [line.split() for line in TABLE.strip().splitlines()[1:]]


def combinations(cells: list[str]) -> Iterator[tuple[str, ...]]:
    """What a row of the table stands for: a name in each dimension."""
    choices = [
        list(dimension) if cell == "*" else cell.split(",")
        for cell, dimension in zip(cells, DIMENSIONS, strict=True)
    ]
    yield from product(*choices)


def facts_of(names: tuple[str, ...]) -> Facts:
    unit_name, populated, frozen, probe, cpu = names
    probed, passed_once, ready = PROBES[probe]
    return Facts(
        LLM,
        populated=FLAGS[populated],
        frozen=FLAGS[frozen],
        unit=UNITS[unit_name],
        probed=probed,
        passed_once=passed_once,
        ready=ready,
        cpu_pct=CPU[cpu],
    )


def test_the_table_has_every_combination_once() -> None:
    listed = [names for *cells, _ in ROWS for names in combinations(cells)]
    assert sorted(listed) == sorted(product(*DIMENSIONS))
    assert {row[-1] for row in ROWS} == {*State, "null"}


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_states(row: list[str]) -> None:
    *cells, expected = row
    found = {
        names: state_of(facts_of(names), BUSY_THRESHOLD) or "null" for names in combinations(cells)
    }
    assert found == dict.fromkeys(found, expected)


def test_a_worker_of_which_nothing_is_known_has_no_state() -> None:
    assert state_of(Facts(LLM), BUSY_THRESHOLD) is None


UNKNOWN = st.none() | st.booleans()
ANY_UNIT = st.builds(
    Unit,
    name=st.text(),
    active=st.sampled_from([each.active for each in UNITS.values() if each]) | st.text(),
    sub=st.sampled_from([each.sub for each in UNITS.values() if each]) | st.text(),
    job=st.integers(),
)
ANY_FACTS = st.builds(
    Facts,
    identity=st.just(LLM),
    populated=UNKNOWN,
    frozen=UNKNOWN,
    unit=st.none() | ANY_UNIT,
    probed=st.booleans(),
    passed_once=st.booleans(),
    ready=UNKNOWN,
    cpu_pct=st.none() | st.floats(min_value=0),
)
PERCENT = st.floats(min_value=0, allow_infinity=False)


@given(ANY_FACTS, PERCENT)
def test_every_worker_has_a_state_or_none(facts: Facts, threshold: float) -> None:
    assert state_of(facts, threshold) in (*State, None)


@given(ANY_FACTS, PERCENT, st.sampled_from(["failed", "auto-restart", "queued"]))
def test_a_run_that_is_over_is_an_error_whatever_else_is_known(
    facts: Facts, threshold: float, name: str
) -> None:
    assert state_of(replace(facts, unit=UNITS[name]), threshold) is State.ERROR


@given(ANY_FACTS, PERCENT)
def test_only_what_may_have_processes_that_run_works(facts: Facts, threshold: float) -> None:
    for idle in (replace(facts, populated=False), replace(facts, frozen=True)):
        assert state_of(idle, threshold) not in (State.BUSY, State.READY)


@given(ANY_FACTS, PERCENT)
def test_load_tells_the_busy_from_the_ready_and_nothing_else(
    facts: Facts, threshold: float
) -> None:
    calm = state_of(replace(facts, cpu_pct=threshold, gpu_pct=None), threshold)
    loaded = state_of(
        replace(facts, gpu_pct=None, cpu_pct=math.nextafter(threshold, math.inf)), threshold
    )
    if calm in (State.READY, None):
        assert loaded is State.BUSY
    else:
        assert loaded is calm


@given(ANY_FACTS, PERCENT)
def test_a_gpu_is_as_good_a_load_as_a_core(facts: Facts, threshold: float) -> None:
    by_core = replace(facts, cpu_pct=math.nextafter(threshold, math.inf), gpu_pct=None)
    by_gpu = replace(by_core, cpu_pct=facts.gpu_pct, gpu_pct=by_core.cpu_pct)
    assert state_of(by_gpu, threshold) is state_of(by_core, threshold)


class Systemd:
    """Stands where Managers stands, and says `units`."""

    def __init__(self) -> None:
        self.units: dict[Unit, Details] = {}

    def ask(self, *_: object) -> None:
        pass

    def reports(self) -> Mapping[str, Report | None]:
        units = {each.name: each for each in self.units}
        return {SYSTEM: Report(units, {each.name: self.units[each] for each in self.units})}

    def close(self) -> None:
        pass


class Host:
    """Workers as files, and what the page says of them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.systemd = Systemd()
        self._graves = 0
        self._scrapers: list[Scraper] = []
        build("==> cgroup.controllers <==\n", root / "cgroup")
        monkeypatch.setattr("worker_exporter.scrape.Managers", lambda *_: self.systemd)

    def worker(self, path: str, events: str = "populated 1\nfrozen 0\n") -> Path:
        """A new worker, or another under the name of an old one."""
        place = self.root / "cgroup/worker.slice" / path
        if place.exists():
            # Moved away rather than removed: its inode number must not be used again.
            self._graves += 1
            place.rename(self.root / str(self._graves))
        build(f"==> cgroup.events <==\n{events}\n==> cpu.stat <==\nusage_usec 0\n", place)
        return place

    def telemetry(self, threshold: float = BUSY_THRESHOLD, **settings: object) -> Telemetry:
        places = {
            "cgroupfs": f"{self.root}/cgroup",
            "procfs": f"{self.root}/proc",
            "sysfs": f"{self.root}/sys",
        }
        self._scrapers.append(Scraper(Settings(**{**places, **settings})))  # type: ignore[arg-type]
        return Telemetry(self.scraper, threshold)

    @property
    def scraper(self) -> Scraper:
        """That of the last telemetry."""
        return self._scrapers[-1]

    def close(self) -> None:
        for scraper in self._scrapers:
            scraper.close()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path, monkeypatch)
    yield made
    made.close()


def page(telemetry: Telemetry) -> list[dict[str, str | None]]:
    rows: list[dict[str, str | None]] = json.loads(telemetry.scrape(telemetry.names).workers())
    return rows


def states(telemetry: Telemetry) -> dict[str | None, str | None]:
    return {row["worker_id"]: row["state"] for row in page(telemetry)}


def row(service: str, instance: str, state: str) -> dict[str, str]:
    name = f"{service}/{instance}"
    return {"worker_id": name, "service": service, "instance": instance, "state": state}


def test_names_and_states_of_the_living_and_the_dead_in_order(host: Host) -> None:
    host.worker("tts/9")
    host.worker("tts/10", events="populated 0\nfrozen 0\n")
    host.worker("mürbe/a b", events="populated 1\nfrozen 1\n")
    for number, (service, active, sub) in enumerate(
        (
            ("eval", "failed", "failed"),
            ("load", "activating", "start-pre"),
            ("loop", "activating", "auto-restart"),
        )
    ):
        name = f"worker-{service}@{number}.service"
        host.systemd.units[Unit(name, active, sub, 0)] = Details(f"worker-{service}.slice", "", "")
    assert page(host.telemetry()) == [
        row("eval", "0", "error"),
        row("load", "1", "starting"),
        row("loop", "2", "error"),
        row("mürbe", "a b", "frozen"),
        row("tts", "10", "stopped"),
        row("tts", "9", "ready"),
    ]


def test_the_unit_of_a_living_worker_counts(host: Host) -> None:
    name = "worker-llm@8080.service"
    host.worker(f"worker-llm.slice/{name}")
    path = f"worker.slice/worker-llm.slice/{name}"
    telemetry = host.telemetry()
    for active, expected in (("active", "ready"), ("deactivating", "stopped"), ("failed", "error")):
        details = Details("worker-llm.slice", path, "success")
        host.systemd.units = {Unit(name, active, "", 0): details}
        assert states(telemetry) == {"llm/8080": expected}


def test_names_are_written_as_they_are(host: Host) -> None:
    host.worker("mürbe/8080")
    telemetry = host.telemetry()
    assert '"mürbe/8080"'.encode() in telemetry.scrape(telemetry.names).workers()


def test_no_worker_is_an_empty_list(host: Host) -> None:
    telemetry = host.telemetry()
    assert telemetry.scrape(telemetry.names).workers() == b"[]\n"


def test_a_worker_is_busy_above_the_threshold(host: Host) -> None:
    place = host.worker("llm/8080")
    eager, patient = host.telemetry(threshold=0), host.telemetry(threshold=1e300)
    assert states(eager) == states(patient) == {"llm/8080": "ready"}
    (place / "cpu.stat").write_text("usage_usec 900000000\n")
    assert (states(eager), states(patient)) == ({"llm/8080": "busy"}, {"llm/8080": "ready"})


def test_a_probe_that_never_passed_is_a_start_and_one_that_fails_later_an_error(
    host: Host,
) -> None:
    telemetry = host.telemetry()
    place = host.worker("llm/8080")
    assert states(telemetry) == {"llm/8080": "ready"}
    for health, expected in (
        (b"0 1767225600 1e9", "starting"),
        (b"0 1767225600 1", "starting"),
        (b"1 1767225600 1e9", "ready"),
        (b"0 1767225601 1e9", "error"),
        (b"1 1767225600 1", None),
        (b"1 1767225602 1e9", "ready"),
    ):
        set_attribute(place, "user.worker.health", health)
        assert states(telemetry) == {"llm/8080": expected}, health
    os.removexattr(place, "user.worker.health")
    assert states(telemetry) == {"llm/8080": "ready"}


def test_that_a_probe_passed_is_forgotten_with_its_cgroup(host: Host) -> None:
    telemetry = host.telemetry()
    for _ in range(2):
        place = host.worker("llm/8080")
        for health, expected in ((b"0 1 1e12", "starting"), (b"1 2 1e12", "ready")):
            set_attribute(place, "user.worker.health", health)
            assert states(telemetry) == {"llm/8080": expected}
    collector = host.scraper.collector(HealthCollector)
    assert collector is not None and len(collector._passed) == 1


@pytest.mark.parametrize(
    ("collector", "expected"),
    [("info", None), ("cpu", "ready"), ("health", "ready"), ("units", "ready")],
)
def test_without_a_collector_the_others_tell(
    host: Host, collector: str, expected: str | None
) -> None:
    place = host.worker("llm/8080")
    enabled = default_collectors() - {collector}
    telemetry = host.telemetry(collectors=enabled)
    assert telemetry.names == enabled
    assert states(telemetry) == {"llm/8080": expected}
    (place / "cpu.stat").write_text("usage_usec 900000000\n")
    assert states(telemetry) == {"llm/8080": "ready" if collector == "cpu" else "busy"}


def test_the_metrics_of_the_pass_are_the_scrapers(host: Host) -> None:
    host.worker("llm/8080")
    telemetry = host.telemetry()
    reading = telemetry.scrape(frozenset({"info"}))
    for answer in (reading.text(), reading.openmetrics()):
        assert b'\nworker_up{service="llm",instance="8080"} 1\n' in answer
        assert b"\nworker_cpu_" not in answer
    assert b"# EOF" not in reading.text()
    assert reading.openmetrics().endswith(b"# EOF\n")
