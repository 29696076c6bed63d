"""The run on a hybrid host, cgroup2 beside version 1: `python -m inside.hybrid RESULTS`."""

import sys
from functools import partial
from pathlib import Path

from . import act_checks as act
from . import figure_checks as figure
from . import hybrid_checks as hybrid
from . import identity_checks as identity
from .report import Report
from .scene import scene, settled_window, show_log

CHECKS = (
    identity.exporter_is_unprivileged,
    identity.workers_found,
    identity.up,
    identity.start_time,
    identity.process_count,
    identity.nothing_failed,
    identity.openmetrics,
    hybrid.cpu_modes,
    figure.pressure,
    hybrid.rss_from_processes,
    hybrid.controllers_are_absent,
)
ACTS = (act.stopped_worker_is_gone,)


def main(results: Path) -> None:
    """Run every check, and leave checks.json and scrape.prom in `results`."""
    report = Report(results / "checks.json")
    with scene(report):
        window = settled_window()
        (results / "scrape.prom").write_text(window.scrape.text)
        for check in CHECKS:
            report.run(check.__name__, partial(check, window))
        for act_check in ACTS:
            report.run(act_check.__name__, act_check)
    show_log()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
