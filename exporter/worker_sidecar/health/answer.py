"""What a probe found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Answer:
    """`result` is one of metrics.PROBE_RESULTS: `not_ready` is the worker's own word or its closed
    port, `timeout` its silence, `error` a probe that could not be made. `reason` is for the log.
    """

    result: Literal["ready", "not_ready", "timeout", "error"]
    reason: str

    @property
    def ready(self) -> bool:
        """Whether the worker is ready."""
        return self.result == "ready"
