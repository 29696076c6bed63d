"""How we know that a dashboard is as we shipped it: by the message of its last version.

Everybody who saves a dashboard, in the browser or by an API, writes a message of their own or none.
The content itself would not tell: a Grafana migrates dashboards to its newest schema when they are
saved, and some when they are read, so that they differ although nobody has touched them.
"""

import re
from dataclasses import dataclass

from worker_sidecar.ship.grafana.api import Found

_MESSAGE = re.compile(
    r"Shipped by worker-sidecar \(sha256:([0-9a-f]+), folder ([\w-]*), version ([0-9]+)\)"
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A dashboard that was shipped: the digest of its model, its folder, its version."""

    digest: str
    folder: str
    version: int

    @property
    def message(self) -> str:
        """What the version history shows."""
        return (
            f"Shipped by worker-sidecar "
            f"(sha256:{self.digest}, folder {self.folder}, version {self.version})"
        )


def stamp_of(found: Found) -> Stamp | None:
    """The stamp of a dashboard that is as we shipped it; None where somebody else saved it last.

    Tools that edit a resource in place keep its message, so its version must be ours, too.
    """
    match = _MESSAGE.fullmatch(found.message)
    if match is None:
        return None
    stamp = Stamp(match[1], match[2], int(match[3]))
    return stamp if found.version <= stamp.version and found.folder == stamp.folder else None
