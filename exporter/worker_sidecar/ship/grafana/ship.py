"""Dashboards into a Grafana: everything is looked at before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker_exporter import log
from worker_sidecar.errors import SidecarError
from worker_sidecar.ship.bundle import Dashboard
from worker_sidecar.ship.errors import ConflictError
from worker_sidecar.ship.grafana.api import Folder, Grafana
from worker_sidecar.ship.grafana.choice import AUTO, choose
from worker_sidecar.ship.grafana.place import Place, create, find, with_data_source
from worker_sidecar.ship.grafana.plan import Planned, planned
from worker_sidecar.ship.grafana.stamp import stamp_of
from worker_sidecar.ship.http import Server
from worker_sidecar.ship.outcome import Tell, check, done, summary, tell_plan


@dataclass(frozen=True, slots=True)
class GrafanaOptions:
    """How dashboards are shipped. `folder` is a title, `data_source` a uid."""

    folder: str | None = None
    folder_uid: str | None = None
    data_source: str | None = None
    api: str = AUTO
    force: bool = False
    dry_run: bool = False


def ship(
    server: Server, dashboards: Sequence[Dashboard], options: GrafanaOptions, tell: Tell
) -> None:
    """Bring `dashboards` to the Grafana at `server`; those that are there as they are, stay.

    Raises RefusedError, before anything is written, for a dashboard that somebody else has saved;
    else what Server.ask raises, saying what is written and what is not.
    """
    grafana = choose(server, options.api)
    wanted = with_data_source(dashboards, server, options.data_source)
    place = find(grafana, options.folder, options.folder_uid)
    plans = [planned(grafana, server, each, place, options.force) for each in wanted]
    steps = [plan.step for plan in plans]
    if options.dry_run:
        if not place.exists:
            tell(f"folder {place.folder.title}: would be created")
        tell_plan(steps, tell)
    check(steps)
    if not options.dry_run:
        _write(grafana, place, plans, tell)
    tell(summary("dashboards", [step.change for step in steps], options.dry_run))


def _write(grafana: Grafana, place: Place, plans: Sequence[Planned], tell: Tell) -> None:
    written: list[str] = []
    if not place.exists:
        create(grafana, place.folder)
        written.append(f"folder {place.folder.title}")
        tell(f"folder {place.folder.title}: created")
    for plan in plans:
        try:
            if plan.written:
                _save(grafana, place.folder, plan)
                written.append(plan.dashboard.title)
            tell(done(plan.step))
        except SidecarError as error:
            said = f"{plan.dashboard.title}: {error}\n{_left(plans, written)}"
            raise type(error)(said) from None
        except BaseException:
            # Ctrl-C, or nobody reads what is told
            log.warn(_left(plans, written))
            raise


def _save(grafana: Grafana, folder: Folder, plan: Planned) -> None:
    stamp = plan.stamp(folder.uid)
    try:
        grafana.save(plan.dashboard, folder.uid, stamp.message, plan.there)
    except ConflictError as error:
        # an answer that was lost on the way makes the second try a conflict with the first
        found = grafana.dashboard(plan.dashboard.uid)
        if found is None or stamp_of(found) != stamp:
            raise ConflictError(f"{error}; somebody saves it at this moment, try again") from None


def _left(plans: Sequence[Planned], written: Sequence[str]) -> str:
    """What is done and what is not: nobody should have to find out."""
    rest = [plan.dashboard.title for plan in plans if plan.written]
    missing = [title for title in rest if title not in written]
    return f"written: {', '.join(written) or 'none'}; not written: {', '.join(missing) or 'none'}"
