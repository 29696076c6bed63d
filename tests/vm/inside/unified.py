"""The run on a host with cgroup v2 alone: `python -m inside.unified RESULTS`."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from . import act_checks as act
from . import figure_checks as figure
from . import identity_checks as identity
from .report import Report
from .scene import scene, settled_window, show_log
from .workers import FROZEN

CHECKS = (
    identity.exporter_is_unprivileged,
    identity.workers_found,
    identity.duplicates_counted,
    identity.metadata,
    identity.up,
    identity.frozen,
    identity.start_time,
    identity.process_count,
    identity.node,
    identity.nothing_failed,
    identity.series_budget,
    identity.openmetrics,
    figure.cpu_seconds,
    figure.cpu_modes,
    figure.cpu_throttled,
    figure.cpu_limit,
    figure.memory_current,
    figure.memory_peak_and_swap,
    figure.memory_kinds,
    figure.memory_working_set,
    figure.memory_faults,
    figure.memory_limits,
    figure.memory_events,
    figure.unlimited_is_absent,
    figure.io_bytes,
    figure.io_absent,
    figure.pressure,
    figure.tasks,
)
ACTS = (
    act.restarted_worker_goes_on,
    act.stopped_worker_is_gone,
    act.new_worker_is_found,
    act.thawed_worker_is_not_frozen,
    act.changed_limits_show,
    act.lifted_limits_go,
    act.late_accounting_shows,
    act.demo_as_root,
    act.demo_as_user,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json and scrape.prom in `results`."""
    report = Report(results / "checks.json")
    with scene(report):
        subprocess.run(["systemctl", "freeze", FROZEN.unit], check=True)
        window = settled_window()
        (results / "scrape.prom").write_text(window.scrape.text)
        for check in CHECKS:
            report.run(check.__name__, partial(check, window))
        for act_check in ACTS:
            report.run(act_check.__name__, act_check)
    show_log()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
