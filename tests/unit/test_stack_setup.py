"""What runs once before the stack: the host's name for Prometheus, a password for Grafana."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy/compose/setup/setup.py"


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stack_setup", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Where targets and secrets go."""
    targets, kept = tmp_path / "targets", tmp_path / "secrets"
    targets.mkdir()
    kept.mkdir()
    return targets, kept


def written(targets: Path) -> object:
    return json.loads((targets / "this-host.json").read_text())


def test_the_host_goes_by_its_own_name(setup: ModuleType, folders: tuple[Path, Path]) -> None:
    setup.main(*folders, {"NODE": "", "SIDECAR": ""}, "gpu-7")
    assert written(folders[0]) == [{"targets": ["exporter:10390"], "labels": {"node": "gpu-7"}}]


def test_a_given_name_wins_and_the_sidecar_is_scraped(
    setup: ModuleType, folders: tuple[Path, Path]
) -> None:
    environment = {"NODE": "blue", "SIDECAR": "host.docker.internal:10391"}
    said = setup.main(*folders, environment, "localhost")
    addresses = ["exporter:10390", "host.docker.internal:10391"]
    assert written(folders[0]) == [{"targets": addresses, "labels": {"node": "blue"}}]
    assert "node=blue" in said[0] and "host.docker.internal:10391" in said[0]


def test_a_name_with_quotes_stays_one_label(setup: ModuleType, folders: tuple[Path, Path]) -> None:
    setup.main(*folders, {}, 'a"b: {c}\\')
    (group,) = json.loads((folders[0] / "this-host.json").read_text())
    assert group["labels"] == {"node": 'a"b: {c}\\'}


def test_the_password_is_made_once(setup: ModuleType, folders: tuple[Path, Path]) -> None:
    setup.main(*folders, {}, "host")
    password = (folders[1] / "grafana-admin").read_text()
    assert len(password) >= 20 and password.isprintable() and " " not in password
    said = setup.main(*folders, {}, "host")
    assert (folders[1] / "grafana-admin").read_text() == password
    assert not [line for line in said if password in line]
    assert sorted(path.name for folder in folders for path in folder.iterdir()) == [
        "grafana-admin",
        "this-host.json",
    ]


def test_two_hosts_have_two_passwords(setup: ModuleType, tmp_path: Path) -> None:
    passwords = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        setup.main(tmp_path / name, tmp_path / name, {}, name)
        passwords.add((tmp_path / name / "grafana-admin").read_text())
    assert len(passwords) == 2


@pytest.mark.parametrize(
    ("environment", "own"),
    [({}, "localhost"), ({}, "localhost.localdomain"), ({}, ""), ({"NODE": "127.0.0.1"}, "a")],
)
def test_a_name_of_many_hosts_is_refused(
    setup: ModuleType, folders: tuple[Path, Path], environment: dict[str, str], own: str
) -> None:
    with pytest.raises(setup.SetupError, match=r"put NODE=NAME into \.env"):
        setup.main(*folders, environment, own)
    assert not list(folders[0].iterdir()) and not list(folders[1].iterdir())


def test_a_sidecar_on_another_port_is_refused(
    setup: ModuleType, folders: tuple[Path, Path]
) -> None:
    with pytest.raises(setup.SetupError, match="not HOST:10391"):
        setup.main(*folders, {"SIDECAR": "host.docker.internal:9000"}, "host")
    assert not list(folders[0].iterdir())


def test_as_the_stack_runs_it(folders: tuple[Path, Path]) -> None:
    command = [sys.executable, str(SCRIPT), *map(str, folders)]
    done = subprocess.run(command, env={"NODE": "gpu-7"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "Prometheus scrapes exporter:10390 as node=gpu-7"
    refused = subprocess.run(command, env={"NODE": "localhost"}, capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr.startswith("setup: error: the host is called 'localhost'")
    assert refused.stderr.count("\n") == 1
