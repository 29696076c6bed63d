"""Runs checks, and writes what came of each for the host to read."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


def say(text: str) -> None:
    """Put a line on the console, with the seconds since the boot."""
    print(f"{time.clock_gettime(time.CLOCK_BOOTTIME):7.1f} {text}", flush=True)


@dataclass
class Report:
    """What came of each check so far: its name and "", or the traceback of its failure.

    It is in the file `path` after every check, so that a crash loses nothing.
    """

    path: Path
    results: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, check: Callable[[], None]) -> None:
        """Run one check, whatever becomes of it."""
        try:
            check()
        except Exception:
            self.results[name] = traceback.format_exc()
        else:
            self.results[name] = ""
        say(f"{'FAILED' if self.results[name] else 'ok':6} {name}")
        self.path.write_text(json.dumps(self.results))
