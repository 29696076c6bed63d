"""A stand-in Grafana: the parts of both of its APIs that shipping uses, with their refusals.

It answers as a real Grafana 12.4 did when it was asked the same, and as Grafana's sources have it:
pkg/api/dashboard.go, pkg/services/dashboards/errors.go, pkg/registry/apis/dashboard/mutate.go and
pkg/storage/unified/apistore/prepare.go.
"""

import base64
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.standin import Reply, Request, page, replied

TOKEN = "glsa_a-token-of-the-tests"
USER, PASSWORD = "admin", "a-password-of-the-tests"
LATEST_SCHEMA = 42

_DASHBOARDS = re.compile(
    r"/apis/dashboard\.grafana\.app/(v1|v1beta1)/namespaces/([^/]+)/dashboards(?:/([^/]+))?"
)
_FOLDERS = re.compile(
    r"/apis/folder\.grafana\.app/(v1|v1beta1)/namespaces/([^/]+)/folders(?:/([^/]+))?"
)


@dataclass
class Saved:
    """A dashboard as it is kept: its model, its folder's uid, the messages of its versions."""

    uid: str
    model: dict[str, Any]
    folder: str
    messages: list[str]
    generation: int = 1
    revision: int = 1
    annotations: dict[str, str] = field(default_factory=dict)
    file: str | None = None


@dataclass
class Grafana:
    """`stable`: the versions of the resource API that it has; none: it has only the classic one."""

    stable: tuple[str, ...] = ()
    namespace: str = "default"
    path: str = ""
    dashboards: dict[str, Saved] = field(default_factory=dict)
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    unique_folder_titles: bool = False
    clock: int = 1000

    def __call__(self, request: Request) -> Reply:
        if not request.path.startswith(f"{self.path}/"):
            return page(404)
        path = request.path.removeprefix(self.path)
        if path == "/api/health":
            return replied(200, {"database": "ok", "version": "13.0.0", "commit": "abc"})
        if not _is_known(request):
            return replied(401, {"message": "Invalid API key", "statusCode": 401})
        return self._answer(request, path)

    def save_by_hand(self, uid: str, **changes: Any) -> None:
        """As somebody does in the browser, who writes no message."""
        saved = self.dashboards[uid]
        self._keep(saved, {**saved.model, **changes}, saved.folder, "")

    def edit_in_place(self, uid: str, **changes: Any) -> None:
        """As a tool does that reads the resource, and writes it with all its annotations."""
        saved = self.dashboards[uid]
        self._keep(saved, {**saved.model, **changes}, saved.folder, saved.messages[-1])

    def move_by_hand(self, uid: str, folder: str) -> None:
        """As somebody does in the browser."""
        saved = self.dashboards[uid]
        self._keep(saved, saved.model, folder, saved.messages[-1] if self.stable else "")

    def add(self, uid: str, title: str, folder: str, **more: Any) -> Saved:
        """A dashboard that is there."""
        model = {"uid": uid, "title": title, "schemaVersion": LATEST_SCHEMA, "panels": []}
        saved = Saved(uid, model, folder, [""], **more)
        self.dashboards[uid] = saved
        return saved

    def _answer(self, request: Request, path: str) -> Reply:
        if path == "/api/search":
            return self._search(request.query)
        if path == "/api/frontend/settings":
            return replied(200, {"namespace": self.namespace, "appUrl": "http://localhost/"})
        if match := re.fullmatch("/api/datasources/uid/(.+)", path):
            source = self.sources.get(match[1])
            return _missing("Data source not found") if source is None else replied(200, source)
        if path.startswith("/apis/"):
            return self._resources(request, path)
        return self._classic(request, path)

    def _search(self, query: Mapping[str, str]) -> Reply:
        found = [
            {
                "uid": saved.uid,
                "title": saved.model["title"],
                "type": "dash-db",
                "folderUid": saved.folder,
            }
            for saved in self.dashboards.values()
            if query["query"].lower() in saved.model["title"].lower()
            and saved.folder == query["folderUIDs"]
        ]
        return replied(200, found)

    # The classic API

    def _classic(self, request: Request, path: str) -> Reply:
        if path == "/api/folders":
            if request.method == "POST":
                return self._make_folder(request.json["uid"], request.json["title"])
            return replied(
                200, [folder for folder in self.folders.values() if not folder["parent"]]
            )
        if match := re.fullmatch("/api/folders/(.+)", path):
            return self._show_folder(match[1], request)
        if path == "/api/dashboards/db":
            return self._save(request.json)
        if match := re.fullmatch("/api/dashboards/uid/([^/]+)", path):
            return self._show(match[1])
        if match := re.fullmatch("/api/dashboards/uid/([^/]+)/versions/([0-9]+)", path):
            return self._version(match[1], int(match[2]))
        return page(404)

    def _show_folder(self, uid: str, request: Request) -> Reply:
        if uid in self.folders:
            return replied(200, self.folders[uid])
        if request.headers["Authorization"].startswith("Basic "):
            return _missing("folder not found")
        # who is no administrator may not know that there is none
        words = "You'll need additional permissions to perform this action."
        return replied(403, {"message": f"{words} Permissions needed: folders:read"})

    def _make_folder(self, uid: str, title: str) -> Reply:
        titles = [folder["title"] for folder in self.folders.values()]
        if uid in self.folders:
            words = "the folder has been changed by someone else"
            return replied(412, {"message": words, "status": "version-mismatch"})
        if self.unique_folder_titles and title in titles:
            words = "a folder with the same name already exists in the current location"
            return replied(409, {"message": words})
        self.folders[uid] = {"uid": uid, "title": title, "parent": ""}
        return replied(200, self.folders[uid])

    def _show(self, uid: str) -> Reply:
        saved = self.dashboards.get(uid)
        if saved is None:
            return _missing("Dashboard not found")
        known = {"id": 7, "version": saved.generation}
        meta = {
            "folderUid": saved.folder,
            "provisioned": saved.file is not None,
            "provisionedExternalId": saved.file or "",
        }
        return replied(200, {"dashboard": {**saved.model, **known}, "meta": meta})

    def _version(self, uid: str, version: int) -> Reply:
        saved = self.dashboards[uid]
        # a version that changes nothing is not counted, but has its message
        if version != saved.generation:
            return replied(500, {"message": f"Dashboard version {version} not found"})
        return replied(200, {"version": version, "message": saved.messages[-1]})

    def _save(self, command: Mapping[str, Any]) -> Reply:
        model = dict(command["dashboard"])
        version, folder = model.pop("version", 0), command["folderUid"]
        model.pop("id", None)
        saved = self.dashboards.get(model["uid"])
        if folder and folder not in self.folders:
            return replied(400, {"message": "folder not found"})
        if saved is None:
            saved = Saved(model["uid"], model, folder, [command["message"]])
            self.dashboards[saved.uid] = saved
        elif saved.file is not None:
            return replied(400, {"message": "Cannot save provisioned dashboard"})
        elif version != saved.generation and not command["overwrite"]:
            words = "The dashboard has been changed by someone else"
            return replied(412, {"message": words, "status": "version-mismatch"})
        else:
            self._keep(saved, model, folder, command["message"])
        return replied(200, {"uid": saved.uid, "status": "success", "version": saved.generation})

    # The resource API

    def _resources(self, request: Request, path: str) -> Reply:
        if path in ("/apis/dashboard.grafana.app", "/apis/folder.grafana.app"):
            return self._group(path.removeprefix("/apis/"))
        dashboards, folders = _DASHBOARDS.fullmatch(path), _FOLDERS.fullmatch(path)
        match = dashboards or folders
        if match is None or match[1] not in self.stable or match[2] != self.namespace:
            return _status(404, "NotFound", "the server could not find the requested resource")
        if dashboards is not None:
            return self._dashboard_resource(request, match[3])
        return self._folder_resource(request, match[3])

    def _group(self, group: str) -> Reply:
        if not self.stable:
            return page(404)
        versions = [
            {"groupVersion": f"{group}/{version}", "version": version}
            for version in ("v2beta1", *self.stable, "v0alpha1")
        ]
        return replied(200, {"kind": "APIGroup", "name": group, "versions": versions})

    def _folder_resource(self, request: Request, uid: str | None) -> Reply:
        if request.method == "POST":
            name = request.json["metadata"]["name"]
            reply = self._make_folder(name, request.json["spec"]["title"])
            if reply.status != 200:
                return reply
            grants = request.json["metadata"]["annotations"]["grafana.app/grant-permissions"]
            self.folders[name]["grants"] = grants
            return replied(201, _folder(self.folders[name]))
        if uid is None:
            # one a page, so that a client must turn the pages
            start = int(request.query.get("continue", "0"))
            names = sorted(self.folders)
            following = str(start + 1) if start + 1 < len(names) else ""
            items = [_folder(self.folders[name]) for name in names[start : start + 1]]
            return replied(200, {"items": items, "metadata": {"continue": following}})
        if uid not in self.folders:
            words = f'folders.folder.grafana.app "{uid}" not found'
            return _status(404, "NotFound", words)
        return replied(200, _folder(self.folders[uid]))

    def _dashboard_resource(self, request: Request, uid: str | None) -> Reply:
        if request.method == "GET":
            if uid not in self.dashboards:
                words = f'dashboards.dashboard.grafana.app "{uid}" not found'
                return _status(404, "NotFound", words)
            return replied(200, self._resource(self.dashboards[str(uid)]))
        if request.query.get("fieldValidation") != "Ignore":
            return _status(422, "Invalid", "spec: field is not allowed")
        metadata, spec = request.json["metadata"], _mutated(request.json["spec"])
        annotations = metadata.get("annotations") or {}
        folder = annotations.get("grafana.app/folder", "")
        name, message = metadata["name"], annotations.get("grafana.app/message", "")
        saved = self.dashboards.get(name)
        if folder and folder not in self.folders:
            return _status(404, "NotFound", f'folders.folder.grafana.app "{folder}" not found')
        if request.method == "POST":
            if saved is not None or metadata.get("resourceVersion"):
                words = f'dashboards.dashboard.grafana.app "{name}" already exists'
                return _status(409, "AlreadyExists", words)
            self.clock += 1
            self.dashboards[name] = Saved(name, spec, folder, [message], revision=self.clock)
            return replied(201, self._resource(self.dashboards[name]))
        assert saved is not None
        if metadata.get("resourceVersion", str(saved.revision)) != str(saved.revision):
            words = f'Operation cannot be fulfilled on "{name}": the object has been modified'
            return _status(409, "Conflict", words)
        if saved.file is not None:
            return _status(403, "Forbidden", "cannot update resource managed by file provisioning")
        saved.annotations = {
            key: value
            for key, value in annotations.items()
            if key not in ("grafana.app/folder", "grafana.app/message")
        }
        self._keep(saved, spec, folder, message)
        return replied(200, self._resource(saved))

    def _resource(self, saved: Saved) -> dict[str, Any]:
        annotations = {"grafana.app/createdBy": "user:1", **saved.annotations}
        if saved.folder:
            annotations["grafana.app/folder"] = saved.folder
        if saved.messages[-1]:
            annotations["grafana.app/message"] = saved.messages[-1]
        if saved.file is not None:
            annotations["grafana.app/managedBy"] = "classic-file-provisioning"
            annotations["grafana.app/managerId"] = "default"
            annotations["grafana.app/sourcePath"] = saved.file
        metadata = {
            "name": saved.uid,
            "namespace": self.namespace,
            "resourceVersion": str(saved.revision),
            "generation": saved.generation,
            "annotations": annotations,
            "managedFields": [{"manager": "worker-sidecar"}],
        }
        return {"kind": "Dashboard", "metadata": metadata, "spec": _mutated(saved.model)}

    def _keep(self, saved: Saved, model: dict[str, Any], folder: str, message: str) -> None:
        """A new version; only a change of content or folder counts as one for the resource API."""
        self.clock += 1
        if not self.stable or model != saved.model or folder != saved.folder:
            saved.generation += 1
        saved.model, saved.folder, saved.revision = model, folder, self.clock
        saved.messages.append(message)


def _is_known(request: Request) -> bool:
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return request.headers.get("Authorization") in (f"Bearer {TOKEN}", f"Basic {basic}")


def _missing(message: str) -> Reply:
    return replied(404, {"message": message})


def _status(code: int, reason: str, message: str) -> Reply:
    document = {"kind": "Status", "status": "Failure", "reason": reason, "message": message}
    return replied(code, {**document, "code": code})


def _folder(folder: Mapping[str, Any]) -> dict[str, Any]:
    annotations = {"grafana.app/folder": folder["parent"]} if folder["parent"] else {}
    metadata = {"name": folder["uid"], "annotations": annotations}
    return {"kind": "Folder", "metadata": metadata, "spec": {"title": folder["title"]}}


def _mutated(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What Grafana makes of a model: migrated to its newest schema, without what is not content."""
    model = copy.deepcopy(dict(spec))
    for key in ("id", "uid", "version"):
        model.pop(key, None)
    model["schemaVersion"] = LATEST_SCHEMA
    for panel in model["panels"]:
        panel.pop("transparent", None)
    builtin = {"builtIn": 1, "name": "Annotations & Alerts", "type": "dashboard"}
    others = [each for each in model.get("annotations", {}).get("list", []) if each != builtin]
    model["annotations"] = {"list": [builtin, *others]}
    return model
