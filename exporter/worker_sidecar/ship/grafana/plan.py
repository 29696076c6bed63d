"""What is to be done with each dashboard, found out before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker_sidecar.ship.bundle import Dashboard
from worker_sidecar.ship.compare import diff, digest, json_text
from worker_sidecar.ship.grafana.alike import alike
from worker_sidecar.ship.grafana.api import Folder, Found, Grafana
from worker_sidecar.ship.grafana.place import Place
from worker_sidecar.ship.grafana.stamp import Stamp, stamp_of
from worker_sidecar.ship.http import Server
from worker_sidecar.ship.outcome import Change, Step

_BY_HAND = "somebody else has saved or moved it; --dry-run shows the differences"


@dataclass(frozen=True, slots=True)
class Planned:
    """A dashboard, what is in its place, and what to do about that."""

    dashboard: Dashboard
    there: Found | None
    step: Step

    @property
    def written(self) -> bool:
        """Whether it is to be saved."""
        return self.step.change in (Change.CREATED, Change.UPDATED)

    def stamp(self, folder: str) -> Stamp:
        """What the dashboard is to be saved with."""
        version = 1 if self.there is None else self.there.version + 1
        return Stamp(digest(self.dashboard.model), folder, version)


def planned(
    grafana: Grafana, server: Server, dashboard: Dashboard, place: Place, force: bool
) -> Planned:
    """What is to be done with `dashboard`, which belongs into the folder of `place`."""
    there = grafana.dashboard(dashboard.uid)
    if there is None:
        rivals = _titled(server, dashboard.title, place.folder) if place.exists else ()
        return Planned(dashboard, None, _absent(dashboard, rivals, force))
    change, why = _judged(dashboard, there, place.folder, force)
    lines: Sequence[str] = ()
    if change is not Change.UNCHANGED:
        left, right = alike(there.model, dashboard.model)
        lines = tuple(diff(dashboard.title, json_text(left), json_text(right)))
    return Planned(dashboard, there, Step(dashboard.title, change, why, lines))


def _judged(dashboard: Dashboard, there: Found, folder: Folder, force: bool) -> tuple[Change, str]:
    """What to do with a dashboard that is there, and why."""
    stamp = stamp_of(there)
    left, right = alike(there.model, dashboard.model)
    same = left == right
    if stamp is not None:
        same = same or stamp.digest == digest(dashboard.model)
    in_place = there.folder == folder.uid
    if same and in_place:
        return Change.UNCHANGED, ""
    if there.manager is not None:
        return Change.REFUSED, f"{there.manager}, and cannot be saved otherwise"
    moved = "" if in_place else f"moved to the folder {folder.title}"
    if stamp is not None:
        return Change.UPDATED, moved
    return (Change.UPDATED, f"forced: {_BY_HAND}") if force else (Change.REFUSED, _BY_HAND)


def _absent(dashboard: Dashboard, rivals: Sequence[str], force: bool) -> Step:
    """What to do with a dashboard that is not there; `rivals` have its title."""
    if not rivals:
        return Step(dashboard.title, Change.CREATED)
    why = f"a dashboard of this title is there with another uid: {', '.join(rivals)}"
    if force:
        return Step(dashboard.title, Change.CREATED, f"forced: {why}")
    return Step(dashboard.title, Change.REFUSED, why)


def _titled(server: Server, title: str, folder: Folder) -> Sequence[str]:
    """The uids of dashboards in `folder` with this title, by GET /api/search of either API."""
    query = {"type": "dash-db", "query": title, "folderUIDs": folder.uid, "limit": "1000"}
    answer = server.get("/api/search", query, expected=(404,))
    if answer.status == 404:
        return []
    return [
        str(each.get("uid"))
        for each in answer.json_list()
        if each.get("title") == title and each.get("folderUid", "") == folder.uid
    ]
