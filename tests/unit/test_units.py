"""Units of workers in a pass, by what a stand-in for systemd's managers says of them."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.golden.answers import HERE
from tests.trees import build

from worker_exporter.cgroup.identity import manager_path
from worker_exporter.cgroup.procfs import CLOCK_TICKS
from worker_exporter.scrape import Scraper, Settings, default_collectors
from worker_exporter.systemd.membership import SYSTEM
from worker_exporter.systemd.unit import Details, Report, Unit

NAME = "worker-llm@8080.service"
SLICE = "worker-llm.slice"
PATH = f"worker.slice/{SLICE}/{NAME}"
LLM = 'service="llm",instance="8080"'
EVAL = 'service="eval",instance="1"'
DEAD = "worker-eval@1.service"
RUNNING = Details(SLICE, PATH, "exit-code", 2, 1700000123.25, 1, 0.5, 4096, 12.5)
ENDED = Details("worker-eval.slice", "", "oom-kill", 3, 1700000000.0, 137, 1.25, 4096, 12.5)
LAST = {
    "worker_last_exit_status": 137,
    "worker_last_run_cpu_seconds": 1.25,
    "worker_last_run_peak_memory_bytes": 4096,
    "worker_last_run_duration_seconds": 12.5,
}
PROCESSES = f"""
==> proc/4022/stat <==
4022 (python) S {"0 " * 18}1000 0

==> proc/4023/stat <==
4023 (python) S {"0 " * 18}2000 0
"""


def unit(name: str, active: str = "active", sub: str = "running") -> Unit:
    return Unit(name, active, sub, 0)


class Systemd:
    """Stands where Managers stands: `says` is the next report of each manager."""

    def __init__(self) -> None:
        self.says: dict[str, Report | None] = {SYSTEM: Report({}, {})}
        self.asked: list[Mapping[str, Mapping[str, int]]] = []
        self.is_worker: Callable[[str], bool] = lambda path: False
        self.late: set[str] = set()
        self.addresses: Mapping[str, str] = {}

    def at(self, addresses: Mapping[str, str], patience: float) -> "Systemd":
        self.addresses = addresses
        return self

    def say(self, manager: str = SYSTEM, **units: tuple[Unit, Details | None]) -> None:
        """Units with their details; None: these are pending."""
        rows = {each.name: (each, details) for each, details in units.values()}
        self.says[manager] = Report(
            {name: row for name, (row, _) in rows.items()},
            {name: details for name, (_, details) in rows.items() if details is not None},
            frozenset(name for name, (_, details) in rows.items() if details is None),
        )

    def ask(
        self,
        alive: Mapping[str, Mapping[str, int]],
        is_worker: Callable[[str], bool],
        patience: float,
    ) -> None:
        self.asked.append(alive)
        self.is_worker = is_worker

    def reports(self) -> Mapping[str, Report | None]:
        return self.says

    def can_ask(self, path: str) -> bool:
        return path in self.addresses

    def is_late(self, path: str) -> bool:
        return path in self.late

    def close(self) -> None:
        pass


class Host:
    """The host of the unified golden tree with systemd on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        monkeypatch.setattr("os.getuid", lambda: 1000)
        if not (root / "cgroupfs").exists():
            build((HERE / "unified.tree").read_text() + PROCESSES, root)
            # Another by the name of LLM would take its place when it dies.
            (root / "cgroupfs/worker.slice/worker-z.slice").rename(root / "aside")
        self.cgroups = root / "cgroupfs"
        self.systemd = Systemd()
        monkeypatch.setattr("worker_exporter.scrape.Managers", self.systemd.at)
        places = {"cgroupfs": str(self.cgroups), "procfs": f"{root}/proc", "sysfs": f"{root}/sys"}
        self.scraper = Scraper(Settings(**{**places, **settings}))  # type: ignore[arg-type]

    def look(self, *collectors: str) -> dict[str, float]:
        selected = frozenset(collectors) or self.scraper.names
        text = self.scraper.scrape(selected).text().decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path, monkeypatch)
    yield made
    made.scraper.close()


def families(samples: Mapping[str, float], labels: str) -> set[str]:
    own = re.compile(rf"(worker_(?:unit|restarts|last|up|start)\w*){{{re.escape(labels)}")
    return {match[1] for name in samples if (match := own.match(name))}


def success(samples: Mapping[str, float]) -> float:
    return samples['worker_exporter_collector_success{collector="units"}']


def states(samples: Mapping[str, float], labels: str) -> str:
    """The one state that is 1, of five."""
    found = {
        match[1]: value
        for name, value in samples.items()
        if (match := re.fullmatch(rf'worker_unit_state{{{labels},state="(\w+)"}}', name))
    }
    assert found.keys() == {"active", "activating", "deactivating", "failed", "inactive"}
    [state] = [name for name, value in found.items() if value == 1]
    assert sum(found.values()) == 1
    return state


@pytest.mark.parametrize(
    ("active", "shown"),
    [
        ("active", "active"),
        ("reloading", "active"),
        ("refreshing", "active"),
        ("activating", "activating"),
        ("deactivating", "deactivating"),
        ("failed", "failed"),
        ("inactive", "inactive"),
    ],
)
def test_a_living_worker_has_its_units_state(host: Host, active: str, shown: str) -> None:
    host.systemd.say(a=(unit(NAME, active), RUNNING))
    samples = host.look()
    assert states(samples, LLM) == shown
    assert samples[f"worker_up{{{LLM}}}"] == (active != "failed")
    assert success(samples) == 1


def test_a_state_that_no_worker_can_have_is_not_told(host: Host) -> None:
    host.systemd.say(a=(unit(NAME, "maintenance"), RUNNING))
    assert "worker_unit_state" not in families(host.look(), LLM)


def test_a_running_unit_has_restarts_and_no_last_run(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING))
    samples = host.look()
    assert samples[f"worker_restarts_total{{{LLM}}}"] == 2
    assert families(samples, LLM) == {
        "worker_up",
        "worker_unit_state",
        "worker_restarts_total",
        "worker_start_time_seconds",
    }


def test_restarts_begin_at_zero_and_scopes_have_none(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), Details(SLICE, PATH, "success", restarts=0)))
    assert host.look()[f"worker_restarts_total{{{LLM}}}"] == 0
    host.systemd.say(a=(unit(NAME), Details(SLICE, PATH, "success")))
    assert "worker_restarts_total" not in families(host.look(), LLM)


@pytest.mark.parametrize("active, sub", [("failed", "failed"), ("activating", "auto-restart")])
def test_a_dead_worker_is_told_as_when_it_lived(host: Host, active: str, sub: str) -> None:
    host.systemd.say(a=(unit(DEAD, active, sub), ENDED))
    samples = host.look()
    assert samples[f"worker_up{{{EVAL}}}"] == 0
    assert states(samples, EVAL) == active
    assert samples[f'worker_unit_result{{{EVAL},result="oom-kill"}}'] == 1
    assert samples[f"worker_restarts_total{{{EVAL}}}"] == 3
    assert {name: samples[f"{name}{{{EVAL}}}"] for name in LAST} == LAST
    assert f"worker_start_time_seconds{{{EVAL}}}" not in samples
    assert success(samples) == 1
    host.systemd.say()
    assert not [name for name in host.look() if EVAL in name]


def test_figures_that_systemd_has_not_are_left_out(host: Host) -> None:
    host.systemd.say(a=(unit(DEAD, "failed"), Details("worker-eval.slice", "", "exit-code")))
    assert families(host.look(), EVAL) == {"worker_up", "worker_unit_state", "worker_unit_result"}


@pytest.mark.parametrize("result", ["success", ""])
def test_a_run_that_ended_well_has_no_result(host: Host, result: str) -> None:
    details = Details("worker-eval.slice", "", result, 1)
    host.systemd.say(a=(unit(DEAD, "activating", "auto-restart"), details))
    assert "worker_unit_result" not in families(host.look(), EVAL)


def test_a_unit_that_is_about_to_start_is_neither_up_nor_down(host: Host) -> None:
    details = Details("worker-eval.slice", "", "success", 0)
    host.systemd.say(a=(unit(DEAD, "activating", "start-pre"), details))
    samples = host.look()
    assert states(samples, EVAL) == "activating"
    assert families(samples, EVAL) == {"worker_unit_state", "worker_restarts_total"}


@pytest.mark.parametrize("active", ["active", "inactive", "deactivating"])
def test_a_unit_without_a_cgroup_that_did_not_fail_is_no_worker(host: Host, active: str) -> None:
    host.systemd.say(a=(unit(DEAD, active, "exited"), ENDED))
    assert not [name for name in host.look() if EVAL in name]


def test_a_unit_of_another_slice_is_no_worker(host: Host) -> None:
    elsewhere = Details("system.slice", "", "exit-code", 0)
    host.systemd.say(a=(unit("cron.service", "failed"), elsewhere))
    assert not [name for name in host.look() if 'service="cron"' in name]
    assert not host.systemd.is_worker("system.slice/cron.service")
    assert host.systemd.is_worker(f"worker.slice/worker-eval.slice/{DEAD}")


def test_a_worker_that_lives_again_is_the_living_one(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING), b=(unit("llm-8080.scope", "failed"), RUNNING))
    samples = host.look()
    assert samples[f"worker_up{{{LLM}}}"] == 1
    assert states(samples, LLM) == "active"


def test_a_worker_that_dies_goes_on_as_dead_and_back(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING))
    host.look()
    place = host.cgroups / PATH
    grave = host.cgroups.parent / "grave"
    place.rename(grave)
    dead = Details(SLICE, "", "signal", 2, 1700000123.25, 137)
    host.systemd.say(a=(unit(NAME, "failed", "failed"), dead))
    samples = host.look()
    assert samples[f"worker_up{{{LLM}}}"] == 0
    assert states(samples, LLM) == "failed"
    assert samples[f"worker_last_exit_status{{{LLM}}}"] == 137
    assert f'worker_cpu_seconds_total{{{LLM},mode="user"}}' not in samples
    grave.rename(place)
    host.systemd.say(a=(unit(NAME), RUNNING))
    samples = host.look()
    assert samples[f"worker_up{{{LLM}}}"] == 1
    assert states(samples, LLM) == "active"
    assert not families(samples, LLM) & {*LAST, "worker_unit_result"}


def test_of_a_failed_unit_whose_cgroup_is_still_there_all_is_told(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING))
    host.look()
    host.systemd.say(a=(unit(NAME, "failed"), Details(SLICE, "", "timeout", 2, None, 137)))
    samples = host.look()
    assert samples[f'worker_unit_result{{{LLM},result="timeout"}}'] == 1
    assert samples[f"worker_last_exit_status{{{LLM}}}"] == 137


@pytest.mark.parametrize(("active", "sub"), [("failed", "failed"), ("activating", "auto-restart")])
def test_what_a_run_that_is_over_left_in_its_cgroup_is_not_up(
    host: Host, active: str, sub: str
) -> None:
    up = f"worker_up{{{LLM}}}"
    host.systemd.say(a=(unit(NAME), RUNNING))
    assert host.look()[up] == 1
    host.systemd.say(a=(unit(NAME, active, sub), Details(SLICE, "", "timeout", 2)))
    assert host.look()[up] == 0
    host.systemd.says = {SYSTEM: None}
    assert host.look()[up] == 0
    host.systemd.say(a=(unit(NAME), RUNNING))
    assert host.look()[up] == 1


def test_a_unit_that_moved_to_another_cgroup_is_the_workers_no_more(host: Host) -> None:
    restarts = f"worker_restarts_total{{{LLM}}}"
    host.systemd.say(a=(unit(NAME), RUNNING))
    assert host.look()[restarts] == 2
    host.systemd.say(a=(unit(NAME), Details("system.slice", f"system.slice/{NAME}", "success", 9)))
    assert restarts not in host.look()


def test_a_unit_of_that_name_elsewhere_is_not_the_workers(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), Details(SLICE, f"machine.slice/{PATH}", "success", 9)))
    assert not families(host.look(), LLM) & {"worker_unit_state", "worker_restarts_total"}


@pytest.mark.parametrize(
    "around", ["machine.slice/box.scope/payload", f"{manager_path(1000)}/app.slice/box\n.scope"]
)
def test_a_unit_of_another_systemd_inside_does_not_hide_the_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    pattern = re.compile(rf"(?s){around}/.*/(?P<service>worker-llm)@(?P<instance>8080)\.service")
    host = Host(tmp_path, monkeypatch, patterns=(pattern,))
    (host.cgroups / around / PATH).mkdir(parents=True)
    (host.cgroups / PATH).rename(tmp_path / "grave")
    host.systemd.say(a=(unit(NAME, "failed"), Details(SLICE, "", "signal", 2)))
    samples = host.look()
    assert [name for name in samples if 'worker_info{service="worker-llm"' in name]
    assert samples[f"worker_up{{{LLM}}}"] == 0
    host.scraper.close()


def test_a_unit_that_failed_before_anybody_looked_and_left_its_cgroup_behind(host: Host) -> None:
    host.systemd.say(a=(unit(NAME, "failed"), Details(SLICE, "", "timeout", 2, None, 137)))
    samples = host.look()
    assert states(samples, LLM) == "failed"
    assert samples[f'worker_unit_result{{{LLM},result="timeout"}}'] == 1


def test_a_unit_without_a_cgroup_that_is_of_another_slice_is_not_the_workers(host: Host) -> None:
    host.systemd.say(a=(unit(NAME, "failed"), Details("system.slice", "", "timeout", 2)))
    assert "worker_unit_state" not in families(host.look(), LLM)


def test_while_details_are_pending_they_are_absent_and_the_collector_says_so(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING))
    host.look()
    host.systemd.say(a=(unit(NAME, "active", "reload"), None), b=(unit(DEAD, "failed"), None))
    samples = host.look()
    assert states(samples, LLM) == "active"
    assert "worker_restarts_total" not in families(samples, LLM)
    assert not families(samples, EVAL)
    assert success(samples) == 0


def test_without_an_answer_the_scrape_is_whole_but_for_units(host: Host) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING), b=(unit(DEAD, "failed"), ENDED))
    before = host.look()
    host.systemd.says = {SYSTEM: None}
    after = host.look()
    lost = {re.split("[{ ]", name)[0] for name in before.keys() - after.keys()}
    assert lost == {"worker_unit_state", "worker_unit_result", "worker_restarts_total", *LAST} | {
        "worker_up"
    }
    assert f"worker_up{{{LLM}}}" in after
    assert f"worker_up{{{EVAL}}}" not in after
    assert success(after) == 0
    start = f"worker_start_time_seconds{{{LLM}}}"
    assert before[start] == after[start]


def test_managers_are_asked_of_their_own_units_only(host: Host) -> None:
    manager = manager_path(1000)
    for place in (f"{manager}/{PATH}", f"{manager_path(1001)}/{PATH}"):
        (host.cgroups / place).mkdir(parents=True)
    host.look()
    [alive] = host.systemd.asked[:1]
    assert alive[SYSTEM][NAME] == (host.cgroups / PATH).stat().st_ino
    assert not [name for units in alive.values() for name in units if name.endswith(".slice")]


def test_the_users_own_manager_tells_of_its_units(host: Host) -> None:
    manager = manager_path(1000)
    host.systemd.say()
    host.systemd.say(manager, a=(unit(DEAD, "failed"), ENDED))
    samples = host.look()
    assert states(samples, EVAL) == "failed"
    assert samples[f"worker_up{{{EVAL}}}"] == 0
    host.systemd.says[manager] = None
    samples = host.look()
    assert not families(samples, EVAL)
    assert success(samples) == 0


def test_of_two_dead_with_one_name_the_systems_is_told(host: Host) -> None:
    host.systemd.say(a=(unit(DEAD, "failed"), ENDED))
    host.systemd.say(manager_path(1000), a=(unit(DEAD, "activating", "auto-restart"), ENDED))
    assert states(host.look(), EVAL) == "failed"


def test_of_two_dead_with_one_name_the_first_by_path_is_told_whatever_systemds_order(
    host: Host,
) -> None:
    inner = unit("worker-eval@1.service", "failed"), ENDED
    outer = unit("eval-1.scope", "failed"), Details("worker.slice", "", "timeout")
    for first, second in ((inner, outer), (outer, inner)):
        host.systemd.say(a=first, b=second)
        samples = host.look()
        assert f'worker_unit_result{{{EVAL},result="timeout"}}' in samples
        assert f'worker_unit_result{{{EVAL},result="oom-kill"}}' not in samples


def test_the_dead_over_the_maximum_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Host(tmp_path, monkeypatch)
    living = full.look()["worker_exporter_workers"]
    full.scraper.close()
    host = Host(tmp_path, monkeypatch, max_workers=int(living) + 1)
    one, two, three = (
        (unit(f"worker-eval@{number}.service", "failed"), ENDED) for number in range(3)
    )
    host.systemd.say(one=one, two=two, three=three)
    samples = host.look()
    assert len([name for name in samples if 'worker_up{service="eval"' in name]) == 1
    assert samples["worker_exporter_dropped_workers"] == 2
    host.scraper.close()


def test_a_dead_unit_whose_name_is_no_label_value_is_counted(host: Host) -> None:
    name = r"worker-a\xff@1.service"
    host.systemd.say(a=(unit(name, "failed"), Details("worker.slice", "", "exit-code")))
    assert host.look()["worker_exporter_dropped_workers"] == 1


@pytest.mark.parametrize("without", ["units", "info"])
def test_a_pass_without_one_of_the_two_has_no_trace_of_it(host: Host, without: str) -> None:
    host.systemd.say(a=(unit(NAME), RUNNING), b=(unit(DEAD, "failed"), ENDED))
    host.look()
    asked = len(host.systemd.asked)
    samples = host.look(*(host.scraper.names - {without}))
    assert (len(host.systemd.asked) > asked) == (without == "info")
    if without == "units":
        assert not [name for name in samples if EVAL in name]
    else:
        assert states(samples, EVAL) == "failed"
    assert states(host.look(), EVAL) == "failed"


class TestStart:
    """worker_start_time_seconds of a worker that no launcher dated."""

    START = f"worker_start_time_seconds{{{LLM}}}"

    @pytest.fixture(autouse=True)
    def undated(self, host: Host) -> None:
        os.removexattr(host.cgroups / PATH, "user.worker.started")

    def test_is_the_units(self, host: Host) -> None:
        host.systemd.say(a=(unit(NAME), RUNNING))
        assert host.look()[self.START] == 1700000123.25

    def test_waits_for_details_that_are_pending(self, host: Host) -> None:
        host.systemd.say(a=(unit(NAME), None))
        assert self.START not in host.look()
        host.systemd.say(a=(unit(NAME), RUNNING))
        assert host.look()[self.START] == 1700000123.25

    def test_waits_for_the_main_process_while_what_comes_before_it_runs(self, host: Host) -> None:
        before = Details(SLICE, PATH, "success", 0)
        host.systemd.say(a=(unit(NAME, "activating", "start-pre"), before))
        assert self.START not in host.look()
        host.systemd.say(a=(unit(NAME), RUNNING))
        assert host.look()[self.START] == 1700000123.25

    def test_is_the_oldest_process_of_a_unit_without_a_main_one(self, host: Host) -> None:
        host.systemd.say(a=(unit(NAME), Details(SLICE, PATH, "success", 0)))
        assert host.look()[self.START] == 1795148803 + 1000 / CLOCK_TICKS

    def test_is_the_oldest_process_without_systemd_and_stays_so(self, host: Host) -> None:
        host.systemd.says = {SYSTEM: None}
        by_process = host.look()[self.START]
        assert by_process == 1795148803 + 1000 / CLOCK_TICKS
        host.systemd.say(a=(unit(NAME), RUNNING))
        assert host.look()[self.START] == by_process

    def test_waits_for_a_systemd_that_is_late(self, host: Host) -> None:
        host.systemd.says, host.systemd.late = {SYSTEM: None}, {SYSTEM}
        assert self.START not in host.look()
        assert self.START not in host.look()
        host.systemd.say(a=(unit(NAME), RUNNING))
        assert host.look()[self.START] == 1700000123.25

    def test_waits_no_longer_than_ten_seconds(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.systemd.says, host.systemd.late = {SYSTEM: None}, {SYSTEM}
        assert self.START not in host.look()
        now = time.monotonic()
        monkeypatch.setattr("worker_exporter.scrape.time.monotonic", lambda: now + 10)
        assert host.look()[self.START] == 1795148803 + 1000 / CLOCK_TICKS

    def test_waits_where_systemd_is_not_asked_in_this_pass(self, host: Host) -> None:
        host.systemd.say(a=(unit(NAME), RUNNING))
        assert self.START not in host.look("info")
        assert host.look()[self.START] == 1700000123.25

    def test_is_the_oldest_process_where_systemd_is_never_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = Host(tmp_path, monkeypatch, collectors=default_collectors() - {"units"})
        host.systemd.late = {SYSTEM}
        assert host.look()[self.START] == 1795148803 + 1000 / CLOCK_TICKS
        host.scraper.close()

    def test_stays_when_systemd_is_silent(self, host: Host) -> None:
        host.systemd.say(a=(unit(NAME), RUNNING))
        host.look()
        for says in (None, Report({}, {})):
            host.systemd.says = {SYSTEM: says}
            assert host.look()[self.START] == 1700000123.25

    def test_is_not_that_of_a_unit_that_began_anew(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = host.cgroups / PATH
        wait = host.systemd.reports

        def meanwhile_restarted() -> Mapping[str, Report | None]:
            place.rename(host.cgroups.parent / "grave")
            place.mkdir()
            return wait()

        host.systemd.say(a=(unit(NAME), RUNNING))
        monkeypatch.setattr(host.systemd, "reports", meanwhile_restarted)
        assert host.look().get(self.START) != 1700000123.25
