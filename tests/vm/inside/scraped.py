"""The exporter on the booted machine, and what it answers."""

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from .workers import SLICES, wait_for

BIN = Path("/opt/worker-exporter/bin")
DEPLOY = Path(__file__).parents[1] / "deploy" / "worker-exporter"
UNIT = "worker-exporter.service"
ENVIRONMENT = Path("/etc/default/worker-exporter")
USER = "worker-exporter"
ADDRESS = "127.0.0.1:10390"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """One answer of /metrics in the text format: the samples by name."""

    text: str
    samples: dict[str, dict[Labels, float]]

    def matching(self, name: str, labels: dict[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        """The labels and values of the samples of `name` that carry all of `labels`."""
        for own, value in self.samples.get(name, {}).items():
            if own.issuperset(labels.items()):
                yield dict(own), value

    def get(self, name: str, labels: dict[str, str]) -> float | None:
        """The value of the one sample of `name` that carries `labels`; None where there is none."""
        values = [value for _, value in self.matching(name, labels)]
        assert len(values) < 2, f"{len(values)} samples of {name} with {labels}"
        return values[0] if values else None

    def value(self, name: str, labels: dict[str, str]) -> float:
        """As `get`, where the sample must be there."""
        value = self.get(name, labels)
        assert value is not None, f"no sample of {name} with {labels}"
        return value

    def total(self, name: str, labels: dict[str, str]) -> float | None:
        """The sum of the samples of `name` that carry `labels`; None where there is none."""
        values = [value for _, value in self.matching(name, labels)]
        return sum(values) if values else None

    @property
    def units_answered(self) -> bool:
        """Whether systemd told the exporter all it was asked."""
        return self.value("worker_exporter_collector_success", {"collector": "units"}) == 1


def start_exporter() -> None:
    """The exporter as the unit of deploy/worker-exporter, under a user that owns nothing."""
    subprocess.run(["useradd", "--system", USER], check=True)
    shutil.copy(DEPLOY / UNIT, "/etc/systemd/system")
    set_flags("--worker.user-managers", *(f"--worker.slice={name}" for name in SLICES))
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "start", UNIT], check=True)
    await_exporter()


def set_flags(*flags: str) -> None:
    """Have these flags at the next start of the unit. systemd halves backslashes."""
    doubled = " ".join((f"--web.listen-address={ADDRESS}", *flags)).replace("\\", "\\\\")
    ENVIRONMENT.write_text(f"ARGS='{doubled}'\n")


def await_exporter() -> None:
    """Wait until the exporter answers."""
    wait_for(_ready, f"the exporter on {ADDRESS}")


def scrape() -> Scrape:
    """One scrape in the text format. Raises ValueError where it does not parse."""
    text = ask("/metrics", "text/plain;version=0.0.4")
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            of_name = samples.setdefault(sample.name, {})
            labels = frozenset(sample.labels.items())
            assert labels not in of_name, f"{sample.name} {sample.labels} is there twice"
            of_name[labels] = float(sample.value)
    return Scrape(text, samples)


def settled_scrape() -> Scrape:
    """The first scrape that misses nothing of systemd, which may be slow here."""
    answers: list[Scrape] = []

    def settled() -> bool:
        answers.append(scrape())
        return answers[-1].units_answered

    wait_for(settled, "a scrape that misses nothing of systemd")
    return answers[-1]


def ask(path: str, accept: str = "*/*") -> str:
    """The body of the exporter's answer. Raises OSError where there is none or an error."""
    request = urllib.request.Request(f"http://{ADDRESS}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=120) as answer:
        body: bytes = answer.read()
    return body.decode()


def _ready() -> bool:
    try:
        ask("/-/ready")
    except OSError:
        return False
    return True
