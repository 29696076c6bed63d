"""What shipping needs of a Grafana, whichever of its APIs does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker_sidecar.ship.bundle import Dashboard


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of dashboards."""

    uid: str
    title: str


@dataclass(frozen=True, slots=True)
class Found:
    """A dashboard as it is in Grafana.

    `model` is without numeric id and version. `folder` is its folder's uid, "" for none. `version`
    counts its changes. `message` is what the last change was saved with, as far as anything was.
    `manager` is who forbids others to save it, such as file provisioning. `origin` is what the API
    wants to have back when it is saved.
    """

    uid: str
    title: str
    model: Mapping[str, Any]
    folder: str
    version: int
    message: str
    manager: str | None
    origin: Mapping[str, Any] = field(repr=False)


class Grafana(Protocol):
    """One of Grafana's APIs. Every method raises what Server.ask raises."""

    name: str
    """What to call this API before the user."""

    def folder(self, uid: str) -> Folder | None:
        """The folder `uid`; None where there is none."""

    def folders(self) -> Sequence[Folder]:
        """The folders at the root."""

    def create_folder(self, folder: Folder) -> None:
        """Make a folder at the root."""

    def dashboard(self, uid: str) -> Found | None:
        """The dashboard `uid`; None where there is none."""

    def save(self, dashboard: Dashboard, folder: str, message: str, there: Found | None) -> None:
        """Create a dashboard in the folder of that uid, or put it in the place of what is `there`.

        Raises ConflictError when somebody else has created or changed it since it was looked at.
        """
