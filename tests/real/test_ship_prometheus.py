"""`ship prometheus` into a directory that a real Prometheus loads: loaded, refused, put back."""

import contextlib
import functools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from bench.prometheus import wait_for
from tests.support import end, follow_parent, free_port
from tests.tools import require

from worker_sidecar.cli.program import execute
from worker_sidecar.ship.prometheus import loaded as rules_loaded

RULES = """\
groups:
  - name: worker-alerts
    interval: 1s
    rules:
      - {alert: WorkerWatchdog, expr: "vector( 1 )", for: 1m30s, labels: {severity: info}}
      - {record: "worker:up:count", expr: "sum by (node)(up{job='x'})"}
"""


@contextlib.contextmanager
def running(folder: Path, *flags: str) -> Iterator[str]:
    """The URL of Debian's Prometheus that loads the rules of `folder`/rules."""
    (folder / "rules").mkdir()
    (folder / "prometheus.yml").write_text('rule_files: ["rules/*.yml"]\n')
    port = free_port()
    arguments = [
        require("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.route-prefix=/prometheus",
        *flags,
    ]
    follow = functools.partial(follow_parent, os.getpid())
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log, preexec_fn=follow)
    url = f"http://127.0.0.1:{port}/prometheus"

    def ready() -> bool:
        assert process.poll() is None, "it has ended"
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{url}/-/ready", timeout=30).status_code == 200
        return False

    try:
        wait_for(ready, "Prometheus")
        yield url
    finally:
        end(process)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """One server for all tests: its URL, and its folder."""
    folder = tmp_path_factory.mktemp("prometheus")
    with running(folder, "--web.enable-lifecycle") as url:
        yield url, folder


@pytest.fixture
def place(prometheus: tuple[str, Path]) -> Iterator[tuple[str, Path]]:
    """The server and its directory of rules, empty."""
    url, folder = prometheus
    directory = folder / "rules"
    yield url, directory
    for file in directory.iterdir():
        file.unlink()
    (folder / "prometheus.yml").write_text('rule_files: ["rules/*.yml"]\n')
    requests.post(f"{url}/-/reload", timeout=30).raise_for_status()


def ship(url: str, directory: Path, *more: str) -> int:
    log = "--log.level=error"
    return execute([log, "ship", "prometheus", "--directory", str(directory), "--url", url, *more])


def small(tmp_path: Path, text: str = RULES) -> str:
    """A directory of rules to ship that are evaluated each second."""
    (tmp_path / "alerts.yml").write_text(text)
    return f"--rules={tmp_path}"


def loaded(url: str) -> dict[str, list[str]]:
    """The names of the rules in each loaded group, as Prometheus itself has it."""
    groups = requests.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    return {group["name"]: [rule["name"] for rule in group["rules"]] for group in groups}


def test_the_shipped_rules_are_loaded(
    place: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    link = "https://r.example/main"
    assert ship(url, directory, "--wait=0", "--runbooks", link) == 0
    assert set(loaded(url)) == {"worker-alerts", "worker-recording"}
    rules = requests.get(f"{url}/api/v1/rules?type=alert", timeout=30).json()["data"]["groups"]
    links = {rule["annotations"]["runbook_url"] for rule in rules[0]["rules"]}
    assert f"{link}/docs/runbooks/WorkerDown.md" in links
    assert "rule files: 2 created" in capsys.readouterr().out
    before = (directory / "alerts.yml").stat()
    assert ship(url, directory, "--wait=0", "--runbooks", link) == 0
    assert "rule files: 2 unchanged" in capsys.readouterr().out
    assert (directory / "alerts.yml").stat() == before


def test_rules_are_waited_for_until_they_are_healthy(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    assert ship(url, directory, small(tmp_path)) == 0
    said = capsys.readouterr().out.splitlines()
    # a rule may have been evaluated before the first look
    waited = [line for line in said if line.startswith("rules: loaded, waiting for the first")]
    assert [line for line in said if line not in waited] == [
        "alerts.yml: created",
        "rule files: 1 created",
        "rules: 2 loaded and healthy",
    ]
    [group] = requests.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    assert [rule["health"] for rule in group["rules"]] == ["ok", "ok"]


def test_rules_that_fail_are_told(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    two = "(vector(1) or label_replace(vector(2), 'a', 'b', '', ''))"
    broken = RULES.replace("vector( 1 )", f"vector(1) + on() {two}")
    assert ship(url, directory, small(tmp_path, broken)) == 1
    errors = capsys.readouterr().err
    assert "the rules are loaded, but some fail:" in errors
    assert re.search(r"WorkerWatchdog: .*many-to-many|WorkerWatchdog: .*duplicate", errors)
    assert loaded(url)


def test_files_that_are_loaded_by_nobody_are_loaded_now(
    place: tuple[str, Path], tmp_path: Path
) -> None:
    url, directory = place
    rules = small(tmp_path)
    assert execute(["ship", "prometheus", "--directory", str(directory), rules]) == 0
    assert loaded(url) == {}
    assert ship(url, directory, rules, "--wait=0") == 0
    assert loaded(url) == {"worker-alerts": ["WorkerWatchdog", "worker:up:count"]}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vector( 1 )", "vector(2)"),
        ("1m30s", "90m"),
        ("severity: info", "severity: warning"),
        ("sum by (node)(up", "max by (node)(up"),
        ("job='x'", "job='y'"),
    ],
)
def test_an_older_copy_in_another_directory_is_found_out(
    place: tuple[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
) -> None:
    url, directory = place
    assert ship(url, directory, small(tmp_path), "--wait=0") == 0
    other = tmp_path / "other"
    other.mkdir()
    assert old in RULES
    newer = small(tmp_path, RULES.replace(old, new))
    # what Prometheus has under another path, as in a container, cannot be told from ours by that
    assert ship(url, other, newer, "--wait=0", "--force") == 1
    errors = capsys.readouterr().err
    assert "worker-alerts is loaded with another " in errors
    assert "rules/*.yml; they must name the directory as it sees it" in errors
    assert not list(other.iterdir())


def test_a_directory_that_nobody_loads_is_found_out(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = place
    other = tmp_path / "other"
    other.mkdir()
    assert ship(url, other, small(tmp_path)) == 1
    errors = capsys.readouterr().err
    assert "worker-alerts is not loaded from a file alerts.yml" in errors
    assert "Its rule_files are " in errors
    assert not list(other.iterdir())


def test_a_group_that_is_loaded_from_elsewhere_is_refused(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    assert ship(url, directory, small(tmp_path), "--wait=0") == 0
    assert ship(url, directory, small(tmp_path), "--wait=0", "--prefix=new-") == 4
    assert "rules/alerts.yml already: take that file away" in capsys.readouterr().err
    assert [file.name for file in directory.iterdir()] == ["alerts.yml"]


def test_a_file_of_the_same_name_elsewhere_is_refused(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    assert ship(url, directory, small(tmp_path), "--wait=0") == 0
    other = tmp_path / "other"
    other.mkdir()
    assert ship(url, other, small(tmp_path), "--wait=0") == 4
    assert "rules/alerts.yml already: take that file away" in capsys.readouterr().err
    assert not list(other.iterdir())
    (tmp_path / "link").symlink_to(directory)
    assert ship(url, tmp_path / "link", small(tmp_path), "--wait=0") == 0


def test_what_is_loaded_twice_is_put_back(
    place: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, directory = place
    other = directory.parent / "other"
    other.mkdir(exist_ok=True)
    (directory.parent / "prometheus.yml").write_text('rule_files: ["rules/*.yml", "other/*.yml"]\n')
    assert ship(url, directory, small(tmp_path), "--wait=0") == 0
    # as if Prometheus had them in a container
    monkeypatch.setattr(rules_loaded, "_is_own", lambda place, _: place.endswith("/alerts.yml"))
    assert ship(url, other, small(tmp_path), "--wait=0") == 1
    errors = capsys.readouterr().err
    assert "the group worker-alerts is loaded twice, from " in errors
    assert "the files are put back as they were" in errors
    assert not list(other.iterdir())


def test_what_prometheus_reads_as_text_is_text(place: tuple[str, Path], tmp_path: Path) -> None:
    url, directory = place
    texts = RULES.replace(
        "{severity: info}", "{severity: info, tier: yes, port: 08, day: 2020-01-01}"
    )
    assert ship(url, directory, small(tmp_path, texts), "--wait=0") == 0


def test_only_what_was_written_is_said_to_be_put_back(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = place
    other = tmp_path / "other"
    other.mkdir()
    assert execute(["ship", "prometheus", "--directory", str(other), small(tmp_path)]) == 0
    assert ship(url, other, small(tmp_path), "--wait=0") == 1
    assert "put back" not in capsys.readouterr().err
    assert list(other.iterdir())
    (other / "alerts.yml").unlink()
    assert ship(url, other, small(tmp_path), "--wait=0") == 1
    assert "the files are put back as they were" in capsys.readouterr().err


def test_a_file_whose_name_looks_like_an_option(place: tuple[str, Path], tmp_path: Path) -> None:
    require("promtool")
    url, directory = place
    (tmp_path / "-alerts.yml").write_text(RULES)
    assert ship(url, directory, f"--rules={tmp_path}", "--wait=0") == 0


def test_what_prometheus_does_not_load_is_put_back(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    assert ship(url, directory, small(tmp_path), "--wait=0") == 0
    before = (directory / "alerts.yml").read_bytes()
    # another's, which lets every reload fail
    (directory / "another.yml").write_text(
        "groups: [{name: x, rules: [{record: a, expr: 'sum('}]}]"
    )
    newer = RULES.replace("vector( 1 )", "vector(2)")
    assert ship(url, directory, small(tmp_path, newer), "--wait=0") == 1
    assert "does not load its configuration with these rules" in capsys.readouterr().err
    assert (directory / "alerts.yml").read_bytes() == before
    (directory / "another.yml").unlink()
    assert ship(url, directory, small(tmp_path, newer), "--wait=0") == 0


def test_rules_that_are_wrong_are_found_before_anything_is_written(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("promtool")
    url, directory = place
    wrong = RULES.replace("vector( 1 )", "vector( 1")
    assert ship(url, directory, small(tmp_path, wrong)) == 2
    assert "promtool check rules: " in capsys.readouterr().err
    assert not list(directory.iterdir())


def test_without_promtool_prometheus_is_the_judge(
    place: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, directory = place
    monkeypatch.setenv("PATH", "/nonexistent")
    wrong = RULES.replace("vector( 1 )", "vector( 1")
    assert ship(url, directory, small(tmp_path, wrong)) == 1
    assert "does not load its configuration with these rules" in capsys.readouterr().err
    assert not list(directory.iterdir())
    # it was told to reload what was put back
    metrics = requests.get(f"{url}/metrics", timeout=30).text
    assert "prometheus_config_last_reload_successful 1\n" in metrics


def test_a_dry_run_writes_nothing(
    place: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, directory = place
    assert ship(url, directory, small(tmp_path), "--dry-run") == 0
    assert "alerts.yml: would be created" in capsys.readouterr().out
    assert not list(directory.iterdir())
    assert loaded(url) == {}


def test_a_server_that_does_not_reload_is_found_out_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    with running(folder) as url:
        assert ship(url, folder / "rules", small(tmp_path)) == 4
    errors = capsys.readouterr().err
    assert (
        "start it with --web.enable-lifecycle, or ship without --url and send it SIGHUP" in errors
    )
    assert not list((folder / "rules").iterdir())
