"""Grafana's classic API: /api/dashboards and /api/folders, up to Grafana 12 the only stable one."""

from collections.abc import Mapping, Sequence
from typing import Any

from worker_sidecar.ship.bundle import Dashboard, stripped
from worker_sidecar.ship.grafana.api import Folder, Found
from worker_sidecar.ship.http import Server, part

_GONE = "not found"
"""What Grafana says with 500 of a version that it does not keep."""

_MOST_FOLDERS = "1000"
"""The most that one request may ask for."""


class Classic:
    """See Grafana. Needs Grafana 9 or later, for /api/dashboards/uid/UID/versions."""

    name = "classic API"

    def __init__(self, server: Server) -> None:
        self._server = server

    def folder(self, uid: str) -> Folder | None:
        """GET /api/folders/UID, which answers 403 to an editor where there is no such folder."""
        answer = self._server.get(f"/api/folders/{part(uid)}", expected=(403, 404))
        return _folder(answer.json()) if answer.status == 200 else None

    def folders(self) -> Sequence[Folder]:
        """GET /api/folders."""
        answer = self._server.get("/api/folders", {"limit": _MOST_FOLDERS})
        return [_folder(each) for each in answer.json_list()]

    def create_folder(self, folder: Folder) -> None:
        """POST /api/folders."""
        document = {"uid": folder.uid, "title": folder.title}
        self._server.ask("POST", "/api/folders", document=document)

    def dashboard(self, uid: str) -> Found | None:
        """GET /api/dashboards/uid/UID, and the message of its version."""
        answer = self._server.get(f"/api/dashboards/uid/{part(uid)}", expected=(404,))
        if answer.status == 404:
            return None
        document = answer.json()
        model, meta = document.get("dashboard") or {}, document.get("meta") or {}
        version = int(model.get("version") or 0)
        return Found(
            uid=uid,
            title=str(model.get("title", "")),
            model=stripped(model),
            folder=meta.get("folderUid") or "",
            version=version,
            message=self._message(uid, version),
            manager=_manager(meta),
            origin={key: model[key] for key in ("id", "version") if key in model},
        )

    def save(self, dashboard: Dashboard, folder: str, message: str, there: Found | None) -> None:
        """POST /api/dashboards/db: with the version that was seen, so that no other is lost."""
        origin = {} if there is None else there.origin
        document = {
            "dashboard": {**dashboard.model, **origin},
            "folderUid": folder,
            "message": message,
            "overwrite": False,
        }
        self._server.ask("POST", "/api/dashboards/db", document=document)

    def _message(self, uid: str, version: int) -> str:
        """GET /api/dashboards/uid/UID/versions/VERSION.

        Not of the list of versions, which calls the first one "Initial save" whatever was said.
        """
        path = f"/api/dashboards/uid/{part(uid)}/versions/{version}"
        answer = self._server.get(path, expected=(404, 500))
        if answer.status == 500 and _GONE not in answer.said:
            answer = self._server.get(path, expected=(404,))
        return str(answer.json().get("message") or "") if answer.status == 200 else ""


def _folder(document: Mapping[str, Any]) -> Folder:
    return Folder(str(document.get("uid", "")), str(document.get("title", "")))


def _manager(meta: Mapping[str, Any]) -> str | None:
    if not meta.get("provisioned"):
        return None
    file = meta.get("provisionedExternalId")
    return f"provisioned from the file {file}" if file else "provisioned from a file"
