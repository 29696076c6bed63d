"""Rule files and dashboards before they are shipped: read, checked, with runbooks put in."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker_sidecar.errors import InputError, RefusedError, SidecarError
from worker_sidecar.ship import bundle
from worker_sidecar.ship.compare import digest
from worker_sidecar.ship.errors import ConflictError, ServerError
from worker_sidecar.ship.outcome import Change
from worker_sidecar.ship.prometheus.directory import Placed, placed, written
from worker_sidecar.ship.prometheus.ship import DirectoryOptions
from worker_sidecar.ship.prometheus.ship import ship as ship_to
from worker_sidecar.ship.rules import RuleFile, load, seconds, split
from worker_sidecar.ship.secret import secret

ALERTS = """\
# A comment that stays.
groups:
  - name: alerts
    interval: 30s
    rules:
      - alert: WorkerDown
        expr: up == 0
        for: 2m
        annotations:
          summary: Down.
          runbook_url: docs/runbooks/WorkerDown.md
      - alert: Elsewhere
        expr: up == 0
        annotations:
          runbook_url: https://example.org/docs/x.md
"""
RECORDS = "groups: [{name: records, rules: [{record: 'a:b', expr: 'up'}]}]\n"


def files(alerts: str = ALERTS) -> Sequence[RuleFile]:
    return load({"alerts.yml": alerts, "recording.yml": RECORDS}, "https://r.example/main")


# What is shipped


def test_a_digest_is_of_the_content_only() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1, "b": [1, 2]}) != digest({"b": [2, 1], "a": 1})


def test_the_package_ships_its_own_dashboards_and_rules() -> None:
    uids = {dashboard.uid for dashboard in bundle.dashboards()}
    names = ("fleet", "service", "worker", "gpu", "exporter")
    assert uids == {f"worker-{name}" for name in names}
    assert {"alerts.yml", "recording.yml"} == bundle.rule_files().keys()
    loaded = load(bundle.rule_files(), "https://r.example/main/")
    rules = [rule for file in loaded for group in file.groups for rule in group["rules"]]
    links = [rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule]
    assert links
    for link, rule in zip(links, [rule for rule in rules if "alert" in rule], strict=True):
        assert link == f"https://r.example/main/docs/runbooks/{rule['alert']}.md"


def test_package_data_goes_before_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "x.yml").write_text(RECORDS)
    monkeypatch.setattr(bundle, "_HERE", tmp_path)
    assert bundle.rule_files() == {"x.yml": RECORDS}


def test_dashboards_of_others_by_title_without_what_a_server_sets(tmp_path: Path) -> None:
    for name, title in (("a", "Z"), ("b", "A")):
        document = {"uid": name, "title": title, "id": 7, "version": 3, "panels": []}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    (tmp_path / "notes.txt").write_text("no dashboard")
    found = bundle.dashboards(str(tmp_path))
    assert [dashboard.uid for dashboard in found] == ["b", "a"]
    assert found[0].model == {"uid": "b", "title": "A", "panels": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "not a JSON object"),
        ('{"title": "x"}', "needs a uid of 1 to 40 letters"),
        ('{"title": "x", "uid": "a b"}', "needs a uid of 1 to 40 letters"),
        ('{"title": " ", "uid": "a"}', "needs a title"),
        (r'{"title": "x\ny", "uid": "a"}', "needs a title of one line"),
        ('{"uid": "a", "title": "x", "__inputs": []}', "was exported for sharing"),
        ('{"dashboard": {}, "meta": {}}', "ship only the dashboard inside"),
        ('{"apiVersion": "v1", "kind": "Dashboard", "spec": {}}', "ship only the dashboard inside"),
    ],
)
def test_what_is_no_dashboard(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError) as raised:
        bundle.dashboards(str(tmp_path))
    assert str(raised.value).startswith(f"{tmp_path}/a.json ")
    assert said in str(raised.value)


def test_what_editors_leave_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(f"\ufeff{RECORDS}", encoding="utf-8")
    (tmp_path / ".#a.yml").symlink_to("me@here.4711")
    assert bundle.rule_files(str(tmp_path)) == {"a.yml": RECORDS}


def test_directories_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \*.json"):
        bundle.dashboards(str(tmp_path))
    with pytest.raises(InputError, match="No such file or directory"):
        bundle.rule_files(str(tmp_path / "none"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('{"uid": "a", "title": "x"}')
    with pytest.raises(InputError, match="two dashboards have the uid a"):
        bundle.dashboards(str(tmp_path))


# Rules


def test_runbooks_get_their_address_and_nothing_else_changes() -> None:
    text = files()[0].text
    assert text == ALERTS.replace("docs/runbooks", "https://r.example/main/docs/runbooks")
    rules = yaml.safe_load(text)["groups"][0]["rules"]
    assert rules[1]["annotations"]["runbook_url"] == "https://example.org/docs/x.md"


def test_without_an_address_the_path_stays_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    [file] = load({"alerts.yml": ALERTS}, None)
    assert file.text == ALERTS
    assert any("--runbooks" in record.getMessage() for record in caplog.records)


def test_an_address_is_taken_as_it_is() -> None:
    [file] = load({"alerts.yml": ALERTS}, r"https://r.example/\1\g<0>")
    assert r"runbook_url: https://r.example/\1\g<0>/docs/runbooks/WorkerDown.md" in file.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("a: 2020-99-99", "is not YAML"),
        ("[" * 9999, "is not YAML"),
        ("[]", "has no groups"),
        ("groups: []", "has no groups"),
        ("groups: [{rules: []}]", "a group has no name"),
        ("groups: [{name: g, rules: []}]", "the group g has no rules"),
        ("groups: [{name: g, rules: [{expr: a}]}]", "must be an alert or a record"),
        ("groups: [{name: g, rules: [{alert: A}]}]", "the rule A has no expr"),
        ("groups: [{name: g, rules: [{alert: A, expr: a, for: soon}]}]", "soon is no duration"),
        ("groups: [{name: g, interval: 5x, rules: [{alert: A, expr: a}]}]", "5x is no duration"),
    ],
)
def test_what_is_no_rule_file(text: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        load({"alerts.yml": text}, None)
    assert said in str(raised.value)


def test_texts_of_rules_are_as_written() -> None:
    labels = "{tier: yes, port: 08, day: 2020-01-01}"
    text = f"groups: [{{name: 1.0, limit: 5, rules: [{{record: a, expr: 1e3, labels: {labels}}}]}}]"
    [file] = load({"a.yml": text}, None)
    texts = {"tier": "yes", "port": "08", "day": "2020-01-01"}
    rule = {"record": "a", "expr": "1e3", "labels": texts}
    assert file.groups == [{"name": "1.0", "limit": 5, "rules": [rule]}]


def test_one_name_for_two_groups() -> None:
    with pytest.raises(InputError, match="two rule groups are named records"):
        load({"a.yml": RECORDS, "b.yml": RECORDS}, None)


def test_runbooks_that_are_no_url() -> None:
    with pytest.raises(InputError, match="docs is no URL"):
        load({"a.yml": RECORDS}, "docs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30.0), ("1m30s", 90.0), ("1h", 3600.0), ("500ms", 0.5), ("1d", 86400.0), (None, 0.0)],
)
def test_durations(text: str | None, expected: float) -> None:
    assert seconds(text) == expected


def test_long_groups_are_split_in_order() -> None:
    group: dict[str, Any] = {"name": "g", "interval": "30s", "rules": list("abcde")}
    pieces = split([group, {"name": "h", "rules": ["f"]}], 2)
    assert [(piece["name"], "".join(piece["rules"])) for piece in pieces] == [
        ("g", "ab"),
        ("g-2", "cd"),
        ("g-3", "e"),
        ("h", "f"),
    ]
    assert all(piece["interval"] == "30s" for piece in pieces[:3])
    assert split([group], None) == [group]


# The directory


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def ship(directory: Path, rules: Sequence[RuleFile], **options: Any) -> list[str]:
    said: list[str] = []
    ship_to(rules, DirectoryOptions(str(directory), 0, **options), None, said.append)
    return said


def test_rules_are_put_into_a_directory(tmp_path: Path) -> None:
    assert ship(tmp_path, files()) == [
        "alerts.yml: created",
        "recording.yml: created",
        "rule files: 2 created",
    ]
    text = (tmp_path / "alerts.yml").read_text()
    stamp, _, rest = text.partition("\n")
    assert stamp.startswith("# Shipped by worker-sidecar, sha256:")
    assert rest == files()[0].text
    assert stat.S_IMODE((tmp_path / "alerts.yml").stat().st_mode) == 0o644
    assert ship(tmp_path, files())[-1] == "rule files: 2 unchanged"
    assert sorted(contents(tmp_path)) == ["alerts.yml", "recording.yml"]


def test_newer_rules_keep_the_mode_of_the_file(tmp_path: Path) -> None:
    ship(tmp_path, files())
    (tmp_path / "alerts.yml").chmod(0o640)
    newer = files(ALERTS.replace("2m", "3m"))
    assert ship(tmp_path, newer)[-1] == "rule files: 1 updated, 1 unchanged"
    assert "for: 3m" in (tmp_path / "alerts.yml").read_text()
    assert stat.S_IMODE((tmp_path / "alerts.yml").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "rules").mkdir()
    (tmp_path / "real" / "alerts.yml").write_text(files()[0].text)
    (tmp_path / "rules" / "alerts.yml").symlink_to("../real/alerts.yml")
    ship(tmp_path / "rules", files())
    assert (tmp_path / "rules" / "alerts.yml").is_symlink()
    assert (tmp_path / "real" / "alerts.yml").read_text().startswith("# Shipped by")


def test_a_link_to_a_file_that_is_still_to_come(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "alerts.yml").symlink_to("../alerts.yml")
    plans = placed(str(tmp_path / "rules"), files()[:1], "", False)
    with pytest.raises(KeyboardInterrupt), written(plans):
        assert (tmp_path / "alerts.yml").exists()
        raise KeyboardInterrupt
    assert (tmp_path / "rules" / "alerts.yml").is_symlink()
    assert not (tmp_path / "alerts.yml").exists()


@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_who_may_read_a_file_can_still_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    ship(tmp_path, files()[:1])
    (tmp_path / "alerts.yml").chmod(mode)
    before = contents(tmp_path)
    if os.getuid() != 0:
        pytest.skip("only root can make a file another's")
    os.chown(tmp_path / "alerts.yml", 4711, 4711)

    def denied(descriptor: int, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", denied)
    newer = files(ALERTS.replace("2m", "3m"))[:1]
    if mode == 0o644:
        assert ship(tmp_path, newer)[0] == "alerts.yml: updated"
        return
    with pytest.raises(InputError, match=r"alerts\.yml cannot keep its owner and group"):
        ship(tmp_path, newer)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("change", ["edited", "another's"])
def test_what_somebody_changed_is_left(tmp_path: Path, change: str) -> None:
    if change == "edited":
        ship(tmp_path, files())
        with open(tmp_path / "alerts.yml", "a") as file:
            file.write("# mine\n")
    else:
        (tmp_path / "alerts.yml").write_text("groups: []\n")
    before = contents(tmp_path)
    newer = files(ALERTS.replace("2m", "3m"))
    for dry_run in (False, True):
        with pytest.raises(RefusedError) as raised:
            ship(tmp_path, newer, dry_run=dry_run)
        assert str(raised.value).splitlines()[0].startswith("alerts.yml: changed since")
        assert contents(tmp_path) == before
    assert ship(tmp_path, newer, force=True)[0].startswith("alerts.yml: updated (forced: ")
    assert ship(tmp_path, newer)[-1] == "rule files: 2 unchanged"


def test_a_copy_by_hand_becomes_ours(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text(files()[0].text)
    assert ship(tmp_path, files())[0] == "alerts.yml: updated"


def test_a_dry_run_shows_the_differences(tmp_path: Path) -> None:
    assert ship(tmp_path, files(), dry_run=True)[-1].endswith("(dry run: nothing was done)")
    assert contents(tmp_path) == {}
    ship(tmp_path, files())
    before = contents(tmp_path)
    said = ship(tmp_path, files(ALERTS.replace("2m", "3m")), dry_run=True)
    assert "-        for: 2m" in said
    assert "+        for: 3m" in said
    assert not any("sha256" in line for line in said)
    assert contents(tmp_path) == before


def test_a_prefix_keeps_files_of_others_apart(tmp_path: Path) -> None:
    (tmp_path / "alerts.yml").write_text("groups: []\n")
    ship(tmp_path, files(), prefix="worker-")
    assert sorted(contents(tmp_path)) == ["alerts.yml", "worker-alerts.yml", "worker-recording.yml"]
    with pytest.raises(InputError, match="without /"):
        ship(tmp_path, files(), prefix="../")


def test_a_directory_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no directory; make it"):
        ship(tmp_path / "none", files())


def test_what_fails_puts_all_files_back(tmp_path: Path) -> None:
    ship(tmp_path, files()[:1])
    (tmp_path / "alerts.yml").chmod(0o640)
    before = contents(tmp_path)
    plans = placed(str(tmp_path), files(ALERTS.replace("2m", "3m")), "", False)
    assert [plan.step.change for plan in plans] == [Change.UPDATED, Change.CREATED]
    with pytest.raises(KeyboardInterrupt), written(plans):
        assert len(contents(tmp_path)) == 2
        raise KeyboardInterrupt
    assert contents(tmp_path) == before
    assert stat.S_IMODE((tmp_path / "alerts.yml").stat().st_mode) == 0o640


def test_each_file_is_put_back_whatever_becomes_of_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ship(tmp_path, files()[1:])
    before = contents(tmp_path)
    plans = placed(
        str(tmp_path), load({"alerts.yml": ALERTS, "recording.yml": RECORDS + "#"}, None), "", False
    )
    with pytest.raises(SidecarError) as raised, written(plans):
        (tmp_path / "alerts.yml").unlink()
        (tmp_path / "alerts.yml").mkdir()
        raise ServerError("no reload")
    assert str(raised.value) == f"no reload\nnot put back as it was: {tmp_path}/alerts.yml"
    (tmp_path / "alerts.yml").rmdir()
    assert contents(tmp_path) == before


def test_what_was_put_back_is_said(tmp_path: Path) -> None:
    plans = placed(str(tmp_path), files(), "", False)
    with pytest.raises(RefusedError, match="no reload\nthe files are put back"), written(plans):
        raise RefusedError("no reload")
    assert contents(tmp_path) == {}


def test_a_file_that_changes_at_this_moment_is_left(tmp_path: Path) -> None:
    plans = placed(str(tmp_path), files(), "", False)
    (tmp_path / "recording.yml").write_text("another's\n")
    with pytest.raises(ConflictError, match=r"recording\.yml was changed at this"), written(plans):
        pytest.fail("another's file is overwritten")
    assert contents(tmp_path) == {"recording.yml": "another's\n"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship(tmp_path, files()[:1])
    before = contents(tmp_path)
    plans: Sequence[Placed] = placed(str(tmp_path), files(ALERTS.replace("2m", "3m")), "", False)
    replace = os.replace
    done: list[str] = []

    def full(source: str, target: str) -> None:
        if done == ["alerts.yml"]:
            done.append("full")
            raise OSError(28, "No space left on device")
        done.append(os.path.basename(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"), written(plans):
        pytest.fail("not all files are there")
    assert contents(tmp_path) == before


# Secrets


def test_secrets_are_of_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    monkeypatch.setenv("A_TOKEN", "from-the-environment")
    assert secret(str(file), "A_TOKEN") == "from-the-file"
    assert secret(None, "A_TOKEN") == "from-the-environment"
    monkeypatch.setenv("A_TOKEN", "")
    assert secret(None, "A_TOKEN") is None
    assert secret(None, "NO_SUCH_VARIABLE") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; it must hold the secret"),
        (b"one\ntwo\n", "must hold a secret on one line"),
        (b"\xff\xfe", "cannot be read: not UTF-8"),
        ("schlüssel".encode(), "must hold a secret on one line, in ASCII"),
    ],
)
def test_what_is_no_secret_is_not_repeated(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(InputError) as raised:
        secret(str(file), "A_TOKEN")
    assert said in str(raised.value)
    assert "two" not in str(raised.value)
    with pytest.raises(InputError, match="No such file or directory"):
        secret(str(tmp_path / "none"), "A_TOKEN")
