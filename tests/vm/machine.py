"""One boot of a run, and the verdict on each of its checks."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.guest import Outcome, boot
from tests.vm.image import Image
from tests.vm.payload import make_payload

# Longer than the guest gives itself (RuntimeMaxSec in image.py), so that it can say what hung.
TIMEOUT_SECONDS = 3120


def run(
    name: str,
    debian: Image,
    packages: Path,
    work: Path,
    options: tuple[str, ...],
    add: Callable[[Path], None] | None = None,
) -> Outcome:
    """Boot `debian` with the kernel's `options` and run inside.<name> there.

    `add` puts into the folder of the payload what only this run needs.
    """
    folder = work / "payload"
    make_payload(folder, packages, name)
    if add is not None:
        add(folder)
    return boot(debian, folder, work, options, TIMEOUT_SECONDS)


def results(outcome: Outcome) -> dict[str, str]:
    """What the guest says of each check it ran: "", or how it failed."""
    found: dict[str, str] = json.loads(outcome.files.get("checks.json", b"{}"))
    return found


def verdict(outcome: Outcome, check: str) -> None:
    """Fail the running test, and show the guest's console, unless `check` ran and was right."""
    failure = results(outcome).get(check, "it did not run")
    if failure:
        end = "ended by force" if outcome.timed_out else "off"
        print(f"the guest's console, {end} after {outcome.seconds:.0f} s:\n{outcome.console}")
        pytest.fail(f"{check} in the guest: {failure}", pytrace=False)
