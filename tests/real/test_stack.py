"""The stack's files: what Docker Compose, Prometheus and Grafana are given, and what it promises.

That it works is shown under a real Docker by the run `stack` (tests/vm).
"""

import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.tools import require

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
OVERRIDES = sorted(ROOT.glob("docker-compose.*.yml"))
OURS = ("exporter", "setup")
SERVERS = ("exporter", "prometheus", "alertmanager", "grafana")
GRAFANA = ROOT / "deploy/grafana"
SHIPPED = ROOT / "deploy/prometheus/prometheus.yml"
STACKS = ROOT / "deploy/compose/prometheus/prometheus.yml"
IMAGE = re.compile(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+")
MOUNT = re.compile(r"(?P<source>[^:]+):(?P<target>/[^:]+)(:(?P<mode>ro))?")
SCHEMA = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
VARIABLE = re.compile(r"\$\{(\w+)(:?[-?][^}]*)?\}")

Service = dict[str, Any]


def parsed(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


STACK: dict[str, Service] = parsed(COMPOSE)["services"]


def mounts(service: Service) -> list[re.Match[str]]:
    found = [MOUNT.fullmatch(each) for each in service.get("volumes", ())]
    assert all(found), service["volumes"]
    return [each for each in found if each]


@pytest.mark.parametrize("path", [COMPOSE, *OVERRIDES], ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path) -> None:
    done = subprocess.run([*SCHEMA, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_key_would_be_seen(tmp_path: Path) -> None:
    """The schema knows what a service may have."""
    content = parsed(COMPOSE)
    content["services"]["exporter"]["readonly"] = True
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(content))
    command = [*SCHEMA, str(tmp_path / "wrong.yml")]
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_the_stack_is_whole() -> None:
    assert set(STACK) == {*SERVERS, "setup"}
    assert [path.name for path in OVERRIDES] == [
        "docker-compose.amd.yml",
        "docker-compose.gpu.yml",
        "docker-compose.units.yml",
    ]
    assert all(set(parsed(path)["services"]) == {"exporter"} for path in OVERRIDES)


def test_ports_are_on_loopback() -> None:
    for name in SERVERS:
        assert all(port.startswith("127.0.0.1:${") for port in STACK[name]["ports"]), name
    assert STACK["setup"]["network_mode"] == "none"
    assert not [name for name, each in STACK.items() if each.get("network_mode") == "host"]


def test_images_are_pinned() -> None:
    for name, service in STACK.items():
        if name in OURS:
            # One of them builds: two builds of one name at once may get in each other's way.
            builds = name == "exporter"
            assert service["image"] == "worker-exporter", name
            assert service.get("build") == ("." if builds else None), name
            assert service["pull_policy"] == ("build" if builds else "never"), name
        else:
            assert IMAGE.fullmatch(service["image"]), service["image"]
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-slim-\w+$", dockerfile(), re.M)


@pytest.mark.parametrize("name", STACK)
def test_services_have_no_rights(name: str) -> None:
    service = STACK[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["user"].startswith("0:") == (name == "setup")
    assert "mem_limit" in service
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["restart"] == ("no" if name == "setup" else "unless-stopped")


@pytest.mark.parametrize("name", STACK)
def test_directories_are_mounted_and_there(name: str) -> None:
    volumes = parsed(COMPOSE)["volumes"]
    for mount in mounts(STACK[name]):
        source = mount["source"]
        if source in volumes:
            continue
        assert mount["mode"] == "ro", mount[0]
        if source.startswith("./"):
            assert (ROOT / source).is_dir(), mount[0]
            assert list((ROOT / source).iterdir()), mount[0]
        else:
            assert source == "/sys/fs/cgroup", mount[0]


def test_variables_have_a_default() -> None:
    """Nothing has to be given, and no command asks for anything."""
    for path in (COMPOSE, *OVERRIDES):
        for variable in VARIABLE.finditer(path.read_text()):
            assert variable[2] and variable[2].startswith(":-"), (path.name, variable[0])


def test_exporter_sees_the_host() -> None:
    exporter = STACK["exporter"]
    assert (exporter["cgroup"], exporter["pid"]) == ("host", "host")
    assert exporter["user"] == "65534:65534"
    assert exporter["command"] == ["--no-collector.units"]
    units = parsed(ROOT / "docker-compose.units.yml")["services"]["exporter"]
    assert units["security_opt"] == ["apparmor:unconfined"]
    assert units["command"] == ["--collector.units"]
    assert units["volumes"] == ["/run/dbus:/run/dbus:ro"]


def test_gpus_are_reserved_for_asking_only() -> None:
    gpu = parsed(ROOT / "docker-compose.gpu.yml")["services"]["exporter"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu", "utility"]}


def test_every_server_is_asked_whether_it_is_well() -> None:
    for name in ("prometheus", "alertmanager", "grafana"):
        url = STACK[name]["healthcheck"]["test"][-1]
        port = STACK[name]["ports"][0].rpartition(":")[2]
        path = "/api/health" if name == "grafana" else "/-/ready"
        assert url == f"http://127.0.0.1:{port}{path}"
    assert "'/-/healthy'" in dockerfile()


def test_prometheus_configuration_is_right(tmp_path: Path) -> None:
    """With all that it names in place: nothing to complain of, warnings neither."""
    promtool = require("promtool")
    folder = tmp_path / "prometheus"
    shutil.copytree(STACKS.parent, folder)
    (tmp_path / "this-host.json").write_text(
        json.dumps([{"targets": ["exporter:10390"], "labels": {"node": "host"}}])
    )
    text = STACKS.read_text()
    for mounted, real in (("/rules/", ROOT / "alerts"), ("/targets/", tmp_path)):
        assert mounted in text
        text = text.replace(f'"{mounted}', f'"{real}/')
    (folder / "prometheus.yml").write_text(text)
    command = [promtool, "check", "config", str(folder / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr, done.stdout
    assert done.stdout.count("rules found") == 2, done.stdout


def test_jobs_are_those_of_a_fleet() -> None:
    """But for where the targets are from."""
    jobs = {
        path: {
            job.pop("job_name"): {key: value for key, value in job.items() if "_sd_" not in key}
            for job in parsed(path)["scrape_configs"]
        }
        for path in (SHIPPED, STACKS)
    }
    for name in ("worker-exporter", "worker-sidecar"):
        assert jobs[STACKS][name] == jobs[SHIPPED][name], name
    intervals = ("scrape_interval", "evaluation_interval")
    ours, theirs = parsed(STACKS)["global"], parsed(SHIPPED)["global"]
    assert {key: ours[key] for key in intervals} == {key: theirs[key] for key in intervals}


def test_grafana_is_provisioned() -> None:
    sources = parsed(GRAFANA / "provisioning/datasources/prometheus.yml")
    assert sources["apiVersion"] == 1
    by_uid = {each["uid"]: each for each in sources["datasources"]}
    assert set(by_uid) == {"prometheus", "alertmanager"}
    prometheus = by_uid["prometheus"]
    assert (prometheus["url"], prometheus["isDefault"]) == ("http://prometheus:9090", True)
    # $__rate_interval comes from it.
    assert prometheus["jsonData"]["timeInterval"] == parsed(STACKS)["global"]["scrape_interval"]
    assert prometheus["jsonData"]["alertmanagerUid"] == "alertmanager"
    assert by_uid["alertmanager"]["url"] == "http://alertmanager:9093"
    (provider,) = parsed(GRAFANA / "provisioning/dashboards/workers.yml")["providers"]
    assert (provider["folder"], provider["folderUid"]) == ("Workers", "workers")
    targets = {mount["target"]: mount["source"] for mount in mounts(STACK["grafana"])}
    assert targets[provider["options"]["path"]] == "./dashboards/json"
    for kind in ("provisioning/datasources", "provisioning/dashboards"):
        assert targets[f"/etc/grafana/{kind}"] == f"./deploy/grafana/{kind}"


def test_grafana_opens_on_the_fleet_and_tells_nobody() -> None:
    settings = configparser.ConfigParser()
    settings.read(GRAFANA / "grafana.ini")
    uids = {
        json.loads(path.read_text())["uid"]: path.name
        for path in (ROOT / "dashboards/json").glob("*.json")
    }
    home = settings["users"]["home_page"]
    assert uids[home.removeprefix("/d/")] == "fleet.json"
    anonymous = settings["auth.anonymous"]
    assert (anonymous["enabled"], anonymous["org_role"]) == ("true", "Viewer")
    analytics = dict(settings["analytics"])
    assert analytics and set(analytics.values()) == {"false"}
    environment = STACK["grafana"]["environment"]
    secret = environment["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert secret == "/secrets/grafana-admin"
    assert Path(environment["GF_PATHS_CONFIG"]).name == "grafana.ini"


def test_image_gets_what_the_wheel_is_made_of_and_no_more() -> None:
    """By the lines of .dockerignore, which are all exceptions from leaving everything out."""
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    first, *kept, last = lines
    assert (first, last) == ("*", "**/__pycache__")
    assert all(line.startswith("!") for line in kept)
    named = {line.removeprefix("!") for line in kept}
    for pattern in named:
        assert list(ROOT.glob(pattern)), pattern
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, wheel = content["project"], content["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml"}
    needed |= set(wheel["only-include"])
    for name in needed:
        assert any(
            name == pattern or name.startswith(f"{pattern}/") or Path(name).match(pattern)
            for pattern in named
        ), name


def test_build_needs_what_is_locked() -> None:
    """Nothing comes from the index but what a file has the hash of."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for name in ("build.txt", "run.txt"):
        text = (ROOT / "requirements" / name).read_text()
        pins = [line for line in text.splitlines() if "==" in line]
        assert text.count("--hash=sha256:") >= len(pins) > 0, name
        assert f"--require-hashes --requirement /src/requirements/{name}" in dockerfile()
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/build.txt").read_text(), re.M)
    for requirement in wanted:
        assert re.split(r"[^\w.-]", requirement)[0] in locked, requirement


def dockerfile() -> str:
    return re.sub(r"\\\n", "", (ROOT / "Dockerfile").read_text())
