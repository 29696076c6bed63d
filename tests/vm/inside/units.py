"""The run on what becomes of workers, as systemd tells it: `python -m inside.units RESULTS`."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import exporter_service_checks as exporter
from . import units_acts as act
from . import units_checks as units
from . import units_services as services
from .report import Report, say
from .scene import show_log
from .scraped import start_exporter
from .units_figures import Picture, look
from .units_scene import (
    DEAD,
    RELOADING,
    STARTED,
    STOPPING,
    define_units,
    end_all,
    living,
    open_gate,
    systemctl,
)

WHILE_ALL_LIVE = (
    units.every_collector_did_its_part,
    units.living_units_are_told,
    units.states_on_the_way,
    units.start_time_is_systemds,
)
ONCE_DEAD = (
    units.killed_by_own_memory_limit,
    units.killed_by_memory_limit_of_slice,
    units.exited_with_an_error,
    units.killed_by_a_signal,
    units.crash_loop_at_its_limit,
    units.crash_loop_that_waits,
    units.deaf_when_stopped,
    units.scope_deaf_when_stopped,
    units.program_that_is_not_there,
    units.dead_have_no_other_figures,
    units.ended_as_asked_is_gone,
    units.openmetrics_has_the_dead,
)
ACTS = (
    act.restarted_worker_lives,
    act.worker_started_again_lives,
    act.new_exporter_knows_the_dead,
    services.memory_of_slices_shows,
    services.throttling_outlives_the_worker,
    services.limits_of_slices_show,
    services.io_outlives_the_worker,
    services.brief_workers_are_counted,
    act.reset_scope_is_gone,
    act.reloads_spoil_nothing,
    act.hung_bus_costs_the_units_only,
    act.others_manager_is_out_of_reach,
    act.reset_failed_ends_the_dead,
    act.killed_bus_is_found_again,
    exporter.unit_file_is_sound,
    exporter.service_is_hardened,
    exporter.nothing_is_hidden_from_it,
    exporter.own_figures_are_those_of_its_process,
    exporter.it_comes_back,
    exporter.patterns_come_from_the_environment_file,
    act.own_manager_is_told_of,
)


def main(results: Path) -> None:
    """Run every check, and leave checks.json and scrape.prom in `results`."""
    report = Report(results / "checks.json")
    define_units()
    start_exporter()
    say("starting the workers")
    with living(STARTED):
        systemctl("reload", "--no-block", RELOADING.unit)
        open_gate(STOPPING)
        systemctl("stop", "--no-block", STOPPING.unit)
        _run(report, WHILE_ALL_LIVE, look(STARTED))
        say("ending the workers")
        end_all()
        picture = look(DEAD)
        (results / "scrape.prom").write_text(picture.scrape.text)
        _run(report, ONCE_DEAD, picture)
        for check in ACTS:
            report.run(check.__name__, check)
    show_log()


def _run(report: Report, checks: tuple[Callable[[Picture], None], ...], picture: Picture) -> None:
    for check in checks:
        report.run(check.__name__, partial(check, picture))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
