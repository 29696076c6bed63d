"""What is to be done with each thing that is shipped, and how that is told."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker_sidecar.errors import RefusedError

Tell = Callable[[str], None]
"""Takes a line of progress for the user."""


class Change(enum.StrEnum):
    """What shipping does to a thing."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to ship. `why` tells why it is refused, or why it is done nevertheless."""

    name: str
    change: Change
    why: str = ""
    diff: Sequence[str] = ()


def summary(kind: str, changes: Sequence[Change], dry_run: bool = False) -> str:
    """How many things were handled in each way."""
    counts = ((change, sum(one is change for one in changes)) for change in Change)
    told = ", ".join(f"{count} {change}" for change, count in counts if count)
    return f"{kind}: {told or 'none'}{' (dry run: nothing was done)' if dry_run else ''}"


def tell_plan(steps: Sequence[Step], tell: Tell) -> None:
    """What a dry run says: each step with its differences."""
    for step in steps:
        tell(_line(step, "would be "))
        for line in step.diff:
            tell(line)


def done(step: Step) -> str:
    """What was done."""
    return _line(step, "")


def check(steps: Sequence[Step]) -> None:
    """Raises RefusedError, one line for each thing that must not be overwritten."""
    refused = [f"{step.name}: {step.why}" for step in steps if step.change is Change.REFUSED]
    if refused:
        raise RefusedError("\n".join([*refused, "nothing was shipped"]))


def _line(step: Step, would: str) -> str:
    if step.change is Change.UNCHANGED:
        return f"{step.name}: unchanged"
    return f"{step.name}: {would}{step.change}" + (f" ({step.why})" if step.why else "")
