"""Grafana's resource API: /apis/GROUP/VERSION/namespaces/NAMESPACE/…, the stable one since 13."""

from collections.abc import Mapping, Sequence
from typing import Any

from worker_sidecar.ship.bundle import Dashboard, stripped
from worker_sidecar.ship.grafana.api import Folder, Found
from worker_sidecar.ship.http import Server, part

DASHBOARDS = "dashboard.grafana.app"
FOLDERS = "folder.grafana.app"

_FOLDER = "grafana.app/folder"
_MESSAGE = "grafana.app/message"
_MANAGER = "grafana.app/managedBy"
_MANAGER_NAME = "grafana.app/managerId"
_EDITABLE = "grafana.app/managerAllowsEdits"
_SOURCE = "grafana.app/sourcePath"
_GRANT = "grafana.app/grant-permissions"


class Resources:
    """See Grafana. `dashboards` and `folders` are the versions of the two groups to speak."""

    def __init__(self, server: Server, namespace: str, dashboards: str, folders: str) -> None:
        self.name = f"API {DASHBOARDS}/{dashboards}"
        self._server = server
        self._dashboard_version = f"{DASHBOARDS}/{dashboards}"
        self._folder_version = f"{FOLDERS}/{folders}"
        within = f"namespaces/{part(namespace)}"
        self._dashboards = f"/apis/{self._dashboard_version}/{within}/dashboards"
        self._folders = f"/apis/{self._folder_version}/{within}/folders"

    def folder(self, uid: str) -> Folder | None:
        """GET …/folders/UID."""
        answer = self._server.get(f"{self._folders}/{part(uid)}", expected=(404,))
        return None if answer.status == 404 else _folder(answer.json())

    def folders(self) -> Sequence[Folder]:
        """GET …/folders, page by page; those within others are left out."""
        found: list[Folder] = []
        query = {"limit": "500"}
        while True:
            page = self._server.get(self._folders, query).json()
            items = page.get("items") or []
            found += [_folder(item) for item in items if not _annotations(item).get(_FOLDER)]
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return found
            query = {**query, "continue": str(following)}

    def create_folder(self, folder: Folder) -> None:
        """POST …/folders."""
        document = {
            "apiVersion": self._folder_version,
            "kind": "Folder",
            # without the grant only administrators would see what is in it
            "metadata": {"name": folder.uid, "annotations": {_GRANT: "default"}},
            "spec": {"title": folder.title},
        }
        self._server.ask("POST", self._folders, document=document)

    def dashboard(self, uid: str) -> Found | None:
        """GET …/dashboards/UID."""
        answer = self._server.get(f"{self._dashboards}/{part(uid)}", expected=(404,))
        if answer.status == 404:
            return None
        document = answer.json()
        spec, metadata = document.get("spec") or {}, document.get("metadata") or {}
        annotations = _annotations(document)
        return Found(
            uid=uid,
            title=str(spec.get("title", "")),
            # the server takes the uid out of the spec: it is the resource's name
            model={**stripped(spec), "uid": uid},
            folder=annotations.get(_FOLDER, ""),
            version=int(metadata.get("generation") or 0),
            message=annotations.get(_MESSAGE, ""),
            manager=_manager(annotations),
            origin=metadata,
        )

    def save(self, dashboard: Dashboard, folder: str, message: str, there: Found | None) -> None:
        """POST …/dashboards, or PUT …/dashboards/UID with the resourceVersion that was seen."""
        old = {} if there is None else dict(there.origin)
        old.pop("managedFields", None)
        annotations = {**(old.get("annotations") or {}), _FOLDER: folder, _MESSAGE: message}
        document = {
            "apiVersion": self._dashboard_version,
            "kind": "Dashboard",
            "metadata": {**old, "name": dashboard.uid, "annotations": annotations},
            "spec": dashboard.model,
        }
        method, path = ("POST", self._dashboards)
        if there is not None:
            method, path = ("PUT", f"{self._dashboards}/{part(dashboard.uid)}")
        # as the browser does: a field that this Grafana does not know yet must not stop the rest
        self._server.ask(method, path, query={"fieldValidation": "Ignore"}, document=document)


def _folder(document: Mapping[str, Any]) -> Folder:
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    return Folder(str(metadata.get("name", "")), str(spec.get("title", "")))


def _annotations(document: Mapping[str, Any]) -> Mapping[str, str]:
    return (document.get("metadata") or {}).get("annotations") or {}


def _manager(annotations: Mapping[str, str]) -> str | None:
    kind = annotations.get(_MANAGER)
    if not kind or annotations.get(_EDITABLE) == "true":
        return None
    name, source = annotations.get(_MANAGER_NAME), annotations.get(_SOURCE)
    return (
        f"managed by {kind}" + (f" {name}" if name else "") + (f" from {source}" if source else "")
    )
