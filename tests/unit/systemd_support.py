"""A manager in the place of systemd's: units are entries of a dictionary, a stop ends them."""

from collections.abc import Callable
from typing import Any, cast

from worker_sidecar.launch.systemd.manager import Manager

NOT_FOUND: dict[str, Any] = {"LoadState": "not-found", "ActiveState": "inactive"}


class FakeManager:
    """Keeps what it was asked for in `calls`. `on_stop` is called with the name of a unit that is
    stopped; without it the unit is gone.
    """

    def __init__(self, units: dict[str, dict[str, Any]]) -> None:
        self.units = units
        self.calls: list[tuple[str, ...]] = []
        self.on_stop: Callable[[str], None] | None = None

    async def properties(self, unit: str) -> dict[str, Any]:
        return self.units.get(unit, NOT_FOUND)

    async def hold(self, unit: str) -> None:
        self.calls.append(("hold", unit))

    async def let_go(self, unit: str) -> None:
        self.calls.append(("let_go", unit))

    async def stop(self, unit: str) -> str:
        self.calls.append(("stop", unit))
        if self.on_stop is not None:
            self.on_stop(unit)
        else:
            self.units.pop(unit)
        return "job"

    async def finished(self, job: str, patience: float) -> bool:
        return patience > 0

    async def kill(self, unit: str) -> None:
        self.calls.append(("kill", unit))

    async def reset_failed(self, unit: str) -> None:
        self.calls.append(("reset_failed", unit))
        if self.units.get(unit, {}).get("ActiveState") == "failed":
            del self.units[unit]

    @property
    def real(self) -> Manager:
        """This, as what it stands for."""
        return cast(Manager, self)
