"""The documentation of workers.yaml and the example file: they load, and leave nothing out."""

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.tools import missing

from worker_sidecar.spec import Config, load
from worker_sidecar.spec.model import (
    ApiEntry,
    File,
    HealthEntry,
    InstanceEntry,
    IoEntry,
    LimitsEntry,
    ServiceEntry,
)
from worker_sidecar.spec.parameter import Parameter
from worker_sidecar.spec.section import Section

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/workers-yaml.md").read_text()
EXAMPLE = (ROOT / "deploy/worker-sidecar/workers.yaml").read_text()
SECRETS = "/etc/worker-sidecar/secrets/"

BLOCKS = re.findall(r"(?ms)^```yaml\n(.*?)^```", DOCUMENT)
SECTIONS: Mapping[str, type[Section]] = {
    "The top": File,
    "Services": ServiceEntry,
    "Instances": InstanceEntry,
    "Limits": LimitsEntry,
    "io": IoEntry,
    "Parameters": Parameter,
    "Health": HealthEntry,
    "api": ApiEntry,
}
_UIDS = {
    name: 61001 + place
    for place, name in enumerate(("agent", "batch", "embed", "llm", "report", "train"))
}


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has the users of the examples."""
    if os.geteuid() != 0:
        missing("root, whose the files of secrets are")

    def user(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", _UIDS[name], _UIDS[name], "", "/", "/bin/false"))

    monkeypatch.setattr("pwd.getpwnam", user)


def loaded(text: str, directory: Path) -> Config:
    """What `text` means on a host that has its files of secrets."""
    for path in re.findall(rf"{SECRETS}[a-z_.]+", text):
        secret = directory / Path(path).name
        secret.touch(mode=0o600)
    file = directory / "workers.yaml"
    file.write_text(text.replace(SECRETS, f"{directory}/"))
    return load(str(file))


@pytest.mark.parametrize("text", BLOCKS)
def test_every_example_in_the_documentation_loads(text: str, tmp_path: Path) -> None:
    config = loaded(text, tmp_path)
    assert config.workers or not config.services


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 6


def test_the_example_file_loads(tmp_path: Path) -> None:
    config = loaded(EXAMPLE, tmp_path)
    assert [declared.spec.name for declared in config.workers] == ["llm/8080", "llm/8081"]
    assert config.workers[1].spec.argv[-1] == "32768"
    assert config.ownership.owner_of("workload-x.slice") == "lattice"
    asked = config.request("batch", "n1", {"queue": "nightly"}).spec
    assert asked.argv == ("/opt/batch/bin/work", "--queue=nightly")


def test_the_documented_message_is_what_is_said(tmp_path: Path) -> None:
    (said,) = re.findall(r"`(workers\.yaml:7: [^`]*)`", DOCUMENT)
    text = "services:\n  llm:\n    command: [x]\n    user: llm\n\n    limits:\n"
    with pytest.raises(Exception) as caught:
        loaded(f"{text}      memory: 8 GB\n", tmp_path)
    assert str(caught.value) == f"{tmp_path}/{said}"


def rows(heading: str) -> Iterator[tuple[str, str]]:
    """Key and default in the table below a heading."""
    (body,) = re.findall(rf"(?ms)^##+ {heading}\n(.*?)(?=^##|\Z)", DOCUMENT)
    for key, _, default in re.findall(r"(?m)^\| `(\w+)` \|([^|]*)\|([^|]*)\|", body):
        yield key, default.strip()


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_in_its_table(heading: str) -> None:
    assert [key for key, _ in rows(heading)] == list(SECTIONS[heading].model_fields)


@pytest.mark.parametrize(
    ("heading", "key", "shown"),
    [
        ("The top", "slice", "worker.slice"),
        ("Services", "restart", "no"),
        ("Services", "grace", "5s"),
        ("Services", "delegate", "false"),
        ("Services", "oom_score_adjust", "0"),
        ("Services", "priority", "normal"),
        ("Parameters", "type", "string"),
        ("Health", "interval", "10s"),
        ("Health", "timeout", "2s"),
        ("api", "free_commands", "false"),
    ],
)
def test_documented_defaults_are_the_defaults(heading: str, key: str, shown: str) -> None:
    assert dict(rows(heading))[key] == f"`{shown}`"
    default = SECTIONS[heading].model_fields[key].default
    written = f"{default:g}s" if isinstance(default, float) else str(default)
    assert written.lower() == shown


@pytest.mark.parametrize("section", SECTIONS.values())
def test_every_key_describes_itself_in_the_json_schema(section: type[Section]) -> None:
    for name, key in section.model_json_schema()["properties"].items():
        assert key.get("description") or "$ref" in key, name
