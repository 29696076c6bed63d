"""The folder that the dashboards go to, and the data source that they are for."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from worker_exporter import log
from worker_sidecar.errors import InputError
from worker_sidecar.ship.bundle import UID, Dashboard
from worker_sidecar.ship.errors import ConflictError
from worker_sidecar.ship.grafana.api import Folder, Grafana
from worker_sidecar.ship.http import Server, part

OWN = Folder("workers", "Workers")
"""Where the dashboards go when nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and whether it is there."""

    folder: Folder
    exists: bool


def find(grafana: Grafana, title: str | None, uid: str | None) -> Place:
    """The folder of `uid`, else the one titled `title`, else OWN.

    Raises InputError for a title that several folders have, for what can be no uid, and for one
    that no folder has, where no title says what to make.
    """
    if uid is not None and not UID.fullmatch(uid):
        raise InputError("--folder-uid takes 1 to 40 letters, digits, - and _")
    if uid is None and title is not None and title != OWN.title:
        named = [folder for folder in grafana.folders() if folder.title == title]
        if len(named) > 1:
            uids = ", ".join(folder.uid for folder in named)
            raise InputError(
                f"several folders are titled {title}; name one by --folder-uid: {uids}"
            )
        if named:
            return Place(named[0], True)
        uid = _uid_of(title)
    wanted = Folder(uid or OWN.uid, title or OWN.title)
    found = grafana.folder(wanted.uid)
    if found is not None:
        return Place(found, True)
    if uid is not None and title is None:
        raise InputError(f"there is no folder with the uid {uid}; --folder TITLE too would make it")
    return Place(wanted, False)


def create(grafana: Grafana, folder: Folder) -> None:
    """Make `folder`. Raises ConflictError where another is in its way."""
    try:
        grafana.create_folder(folder)
    except ConflictError as error:
        # an answer that was lost on the way makes the second try a conflict with the first
        if grafana.folder(folder.uid) is None:
            raise ConflictError(f"{error}; name a folder that is there by --folder-uid") from None


def with_data_source(
    dashboards: Sequence[Dashboard], server: Server, uid: str | None
) -> Sequence[Dashboard]:
    """`dashboards`, that show the data source `uid` first; as they are for None.

    Raises InputError where there is no such data source, or it is no Prometheus.
    """
    if uid is None:
        return dashboards
    answer = server.get(f"/api/datasources/uid/{part(uid)}", expected=(403, 404))
    if answer.status == 404:
        raise InputError(f"this Grafana has no data source with the uid {uid}")
    name = uid
    if answer.status == 403:
        log.warn("not permitted to look at data sources: this one is not checked", uid=uid)
    else:
        source = answer.json()
        name = str(source.get("name", uid))
        if source.get("type") != "prometheus":
            raise InputError(
                f"the data source {name} is of type {source.get('type')}, no Prometheus"
            )
    return [_showing(dashboard, uid, name) for dashboard in dashboards]


def _showing(dashboard: Dashboard, uid: str, name: str) -> Dashboard:
    model = copy.deepcopy(dashboard.model)
    for variable in (model.get("templating") or {}).get("list") or []:
        if variable.get("type") == "datasource":
            variable["current"] = {"text": name, "value": uid}
    return Dashboard(dashboard.uid, dashboard.title, model)


def _uid_of(title: str) -> str:
    """A uid for a new folder that is the same each time."""
    words = re.findall(r"[a-z0-9]+", title.lower())
    return "-".join(words)[:40] or OWN.uid
