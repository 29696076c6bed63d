"""`worker-sidecar ship` on the command line: its options, exit codes, and what it keeps secret."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.grafana import PASSWORD, TOKEN, USER, Grafana
from tests.ruler import Ruler
from tests.standin import Reply, Request, StandIn, replied, standing_in

from worker_sidecar.cli.program import execute

SECRET = "a-secret-of-the-tests"
PATIENCE = 60.0


@pytest.fixture
def grafana() -> Grafana:
    return Grafana(stable=("v1",))


@pytest.fixture
def standin(grafana: Grafana) -> Iterator[StandIn]:
    with standing_in(grafana) as server:
        yield server


@pytest.fixture
def dashboards(tmp_path: Path) -> str:
    folder = tmp_path / "dashboards"
    folder.mkdir()
    document = {"uid": "worker-fleet", "title": "Workers / Fleet", "panels": []}
    (folder / "fleet.json").write_text(json.dumps(document))
    return str(folder)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAFANA_TOKEN", "GRAFANA_PASSWORD", "PROMETHEUS_TOKEN", "PROMETHEUS_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def to_grafana(standin: StandIn, dashboards: str, *more: str) -> int:
    arguments = ["ship", "grafana", "--url", standin.url, "--dashboards", dashboards, *more]
    return execute([*arguments, "--patience=0"])


def test_a_token_of_a_file(
    standin: StandIn, dashboards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert to_grafana(standin, dashboards, "--token-file", str(tmp_path / "token")) == 0
    out, errors = capsys.readouterr()
    assert out.splitlines() == [
        "folder Workers: created",
        "Workers / Fleet: created",
        "dashboards: 1 created",
    ]
    assert errors == ""


def test_a_token_or_a_password_of_the_environment(
    standin: StandIn, dashboards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    assert to_grafana(standin, dashboards) == 0
    monkeypatch.setenv("GRAFANA_TOKEN", "not-asked-for")
    monkeypatch.setenv("GRAFANA_PASSWORD", PASSWORD)
    assert to_grafana(standin, dashboards, "--user", USER, "--org=2") == 0
    assert standin.requests[-1].headers["X-Grafana-Org-Id"] == "2"


def test_what_is_refused_has_the_exit_code_4(
    standin: StandIn,
    grafana: Grafana,
    dashboards: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    to_grafana(standin, dashboards)
    grafana.save_by_hand("worker-fleet", panels=[{"title": "mine\u202e"}])
    capsys.readouterr()
    assert to_grafana(standin, dashboards, "--dry-run") == 4
    out, errors = capsys.readouterr()
    assert "Workers / Fleet: would be refused" in out
    assert "mine\\u202e" in out
    assert "\u202e" not in out
    assert errors.splitlines() == [
        "worker-sidecar: error: Workers / Fleet: somebody else has saved or moved it;"
        " --dry-run shows the differences",
        "worker-sidecar: error: nothing was shipped",
    ]
    assert to_grafana(standin, dashboards, "--force") == 0


@pytest.mark.parametrize(("status", "code"), [(401, 4), (403, 4), (404, 3), (412, 1), (500, 1)])
def test_each_refusal_of_the_server_has_its_exit_code(
    standin: StandIn,
    dashboards: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: int,
) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", SECRET)
    standin.refuse(replied(status, {"message": "no"}), times=9)
    assert to_grafana(standin, dashboards) == code
    out, errors = capsys.readouterr()
    assert out == ""
    [line] = errors.splitlines()
    assert line.startswith("worker-sidecar: error: ")
    assert SECRET not in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["grafana"], "Missing option '--url'"),
        (["grafana", "--url=http://x", "--user=a"], "--user needs --password-file or $GRAFANA"),
        (["grafana", "--url=http://x", "--password-file=a"], "--password-file needs --user"),
        (["grafana", "--url=http://x", "--user=a", "--token-file=b"], "exclude each other"),
        (["grafana", f"--url=http://a:{SECRET}@x"], "must not hold credentials"),
        (["grafana", f"--token={SECRET}", "--url=http://x"], "No such option"),
        (["grafana", "--url=http://x", "--dashboards=/nonexistent"], "No such file"),
        (["prometheus"], "either --directory or --ruler"),
        (["prometheus", "--directory=/x", "--ruler=http://x"], "either --directory or --ruler"),
        (["prometheus", "--directory=/x", "--tenant=a"], "need --ruler"),
        (["prometheus", "--directory=/x", "--managed"], "need --ruler"),
        (["prometheus", "--ruler=http://x", "--url=http://x"], "need --directory"),
        (["prometheus", "--ruler=http://x", "--managed"], "--managed needs --datasource"),
        (["prometheus", "--directory=/nonexistent"], "is no directory"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["--log.level=error", "ship", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    [line] = errors.splitlines()
    assert line.startswith("worker-sidecar: error: ")
    assert said in line
    assert SECRET not in line


def test_rules_into_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--log.level=error", "ship", "prometheus", "--directory", str(tmp_path)]
    for expected in ("rule files: 2 created", "rule files: 2 unchanged"):
        assert execute([*arguments, "--runbooks", "https://r.example"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == expected
    assert "https://r.example/docs/runbooks/WorkerDown.md" in (tmp_path / "alerts.yml").read_text()


def test_sigterm_takes_back_what_is_half_done(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text("groups: [{name: mine, rules: []}]\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    reloading = threading.Event()

    def prometheus(request: Request) -> Reply:
        if request.method == "POST":
            is_second = reloading.is_set()
            reloading.set()
            return Reply(200 if is_second else -1)
        data: object = {"web.enable-lifecycle": "true"}
        if "rules" in request.path:
            data = {"groups": []}
        return replied(200, {"status": "success", "data": data})

    with standing_in(prometheus) as standin:
        command = [sys.executable, "-m", "worker_sidecar", "ship", "prometheus", "--force"]
        process = subprocess.Popen([*command, "--directory", str(tmp_path), "--url", standin.url])
        try:
            assert reloading.wait(PATIENCE)
            assert len(list(tmp_path.iterdir())) == 2
            process.terminate()
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM
            assert standin.made("POST") == ["/-/reload"] * 2, "what was before is loaded again"
        finally:
            process.kill()
            process.wait()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_rules_to_a_ruler(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Ruler(limit=20)
    with standing_in(kept) as standin:
        arguments = ["--log.level=error", "ship", "prometheus", "--ruler", standin.url]
        assert execute([*arguments, "--tenant=team"]) == 2
        assert "--max-rules makes smaller groups" in capsys.readouterr().err
        assert execute([*arguments, "--tenant=team", "--max-rules=20"]) == 0
        assert kept.groups("team", "worker-exporter").keys() >= {"worker-alerts", "worker-alerts-2"}
        assert execute([*arguments, "--tenant=team", "--max-rules=20"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(" unchanged")


def test_other_commands_do_not_load_what_only_shipping_needs() -> None:
    code = "import sys, worker_sidecar.cli.program; print('requests' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
