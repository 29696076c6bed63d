"""The shipped Alertmanager configuration: amtool on it, and a real Alertmanager with it."""

import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench.prometheus import wait_for
from tests.alerting import (
    ALERTS,
    ROOT,
    SHIPPED,
    Alertmanager,
    Inbox,
    Message,
    routed_to,
    running_alertmanager,
    running_inbox,
    shipped,
)
from tests.tools import require

GUIDE = ROOT / "docs/alerting.md"
RUNBOOKS = ROOT / "docs/runbooks"
HASTE = 60
RECEIVERS = {"critical": "critical", "warning": "warning", "info": "nobody"}
WATCHDOG = "WorkerWatchdog"


def labels_by_alert() -> dict[str, dict[str, str]]:
    """The labels with which each alert fires, as promtool proves them in alerts/tests."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted((ALERTS / "tests").glob("*.yml")):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for check in test.get("alert_rule_test", ()):
                for alert in check.get("exp_alerts") or ():
                    name = check["alertname"]
                    found.setdefault(name, {"alertname": name, **alert["exp_labels"]})
    return found


LABELS = labels_by_alert()
COMMON = {"node": "host-a", "service": "llm", "instance": "8080", "gpu": "0", "uuid": "GPU-0"}


def alert(name: str, **changed: str) -> dict[str, str]:
    """The labels of an alert, on the worker, GPU and node that all in a test are about."""
    own = LABELS[name]
    mine = {key: value for key, value in {**COMMON, **changed}.items() if key in own}
    return {**own, **mine}


def amtool(*arguments: str) -> str:
    """What amtool prints; its words are the failure."""
    said = subprocess.run([require("amtool"), *arguments], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout.strip()


def documented(config: str) -> str:
    """The configuration with everything in it that a comment offers."""
    return re.sub(r"(?m)^( *)# (?=(smtp_|pagerduty_|email_|webhook_)\w+:|  )", r"\1", config)


@pytest.mark.parametrize("edit", [str, documented])
def test_amtool_accepts_the_configuration(edit: Any, tmp_path: Path) -> None:
    text = edit(SHIPPED.read_text())
    (tmp_path / SHIPPED.name).write_text(text)
    (tmp_path / "templates").symlink_to(SHIPPED.parent / "templates")
    said = amtool("check-config", str(tmp_path / SHIPPED.name))
    assert said.endswith("SUCCESS")
    assert "- 1 templates" in said
    offered = {"pagerduty_configs", "email_configs", "webhook_configs"}
    used = {key for receiver in yaml.safe_load(text)["receivers"] for key in receiver}
    assert (offered <= used) is (edit is documented)


@pytest.mark.parametrize("name", LABELS)
def test_each_alert_goes_where_its_severity_says(name: str) -> None:
    labels = [f"{key}={value}" for key, value in LABELS[name].items()]
    receiver = amtool("config", "routes", "test", f"--config.file={SHIPPED}", *labels)
    wanted = "watchdog" if name == WATCHDOG else RECEIVERS[LABELS[name]["severity"]]
    assert receiver == wanted


def test_an_alert_without_a_severity_is_not_lost() -> None:
    assert amtool("config", "routes", "test", f"--config.file={SHIPPED}", "a=b") == "warning"


def test_every_alert_is_tried() -> None:
    groups = yaml.safe_load((ALERTS / "alerts.yml").read_text())["groups"]
    assert set(LABELS) == {
        rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule
    }


@dataclass(frozen=True, slots=True)
class Inhibition:
    """A row of the guide's table: while `source` fires `targets` are not sent, if `equal` are."""

    source: str
    targets: frozenset[str]
    equal: tuple[str, ...]


def inhibitions() -> list[Inhibition]:
    """The table of the guide."""
    rows = re.findall(
        r"^\| `(Worker\w+)` \| (.*) \| ([\w, ]+) \|$", GUIDE.read_text(), re.MULTILINE
    )
    found = []
    for source, said, equal in rows:
        named = frozenset(re.findall(r"`(\w+)`", said))
        if said.startswith("all others"):
            of_workers = {name for name in LABELS if "instance" in LABELS[name]}
            chosen = of_workers if "of a worker" in said else LABELS.keys() - {WATCHDOG}
            named = frozenset(chosen - {source} - named)
        found.append(Inhibition(source, named, tuple(equal.split(", "))))
    return found


TABLE = [row for row in inhibitions() if row.equal[0] == "node"]


@pytest.fixture(scope="module")
def inbox() -> Iterator[tuple[Inbox, str]]:
    with running_inbox() as running:
        yield running


@pytest.fixture(scope="module")
def server(
    inbox: tuple[Inbox, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Alertmanager]:
    """The shipped routes and inhibitions, with a webhook for each receiver that sends."""
    program = require("prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("alertmanager")
    with running_alertmanager(program, folder, routed_to(inbox[1], HASTE)) as running:
        yield running


def inhibited(server: Alertmanager, prefix: str) -> dict[str, set[tuple[str, str]]]:
    """Who inhibits whom, of the nodes whose name begins so; an alert's first inhibitor counts."""
    alerts = server.get("alerts")
    names = {each["fingerprint"]: each["labels"]["alertname"] for each in alerts}
    found: dict[str, set[tuple[str, str]]] = {}
    for each in alerts:
        node = each["labels"].get("node", "")
        if not node.startswith(prefix):
            continue
        by = [names[fingerprint] for fingerprint in each["status"]["inhibitedBy"]]
        assert each["status"]["state"] == ("suppressed" if by else "active")
        found.setdefault(node, set()).update((one, each["labels"]["alertname"]) for one in by)
    return found


def test_each_alert_inhibits_just_what_the_guide_says(server: Alertmanager) -> None:
    """Each pair of alerts on a node of their own, about the same worker; so none is alone that
    inhibits itself, nor two that inhibit each other.
    """
    names = sorted(LABELS.keys() - {WATCHDOG})
    pairs = {f"pair-{n}": pair for n, pair in enumerate(itertools.combinations(names, 2))}
    server.post([alert(name, node=node) for node, pair in pairs.items() for name in pair])
    rows = {row.source: row.targets for row in TABLE}
    assert len(rows) == 7
    wanted = {
        node: {(one, two) for one, two in itertools.permutations(pair) if two in rows.get(one, ())}
        for node, pair in pairs.items()
    }
    # It hears of alerts before it has weighed them against each other.
    wait_for(lambda: inhibited(server, "pair-") == wanted, "just what the guide says")
    assert all(len(each) < 2 for each in wanted.values())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.source)
def test_it_inhibits_only_what_has_the_same_labels(row: Inhibition, server: Alertmanager) -> None:
    node = f"same-{row.source}"
    others = {"node": "elsewhere", "service": "embed", "instance": "9090"}
    posted = [alert(row.source, node=node)]
    for label in row.equal:
        changed = {"node": f"{node}-but-{label}", label: others[label]}
        if label == "node":
            changed = {"node": f"{node}-elsewhere"}
        else:
            posted.append(alert(row.source, node=changed["node"]))
        targets = [name for name in row.targets if label in LABELS[name]]
        assert targets
        posted += [alert(name, **changed) for name in targets]
    server.post(posted)
    inhibitors = {source for each in inhibited(server, node).values() for source, _ in each}
    assert row.source not in inhibitors


def test_the_watchdog_is_never_inhibited_even_where_nothing_has_a_node(
    server: Alertmanager,
) -> None:
    """Labels that two alerts lack are equal; a target without `node` must not silence all."""
    server.post([
        {"alertname": "WorkerNodeGone", "severity": "critical"},
        {"alertname": "WorkerExporterDown", "severity": "critical"},
        LABELS[WATCHDOG],
    ])  # fmt: skip
    [found] = [each for each in server.get("alerts") if each["labels"] == LABELS[WATCHDOG]]
    assert found["status"]["state"] == "active"


def test_a_second_severity_is_sent_in_the_worse_only(server: Alertmanager) -> None:
    labels = alert("WorkerMemoryNearLimit", node="two-severities")
    other = {**labels, "instance": "8081"}
    server.post([labels, {**labels, "severity": "critical"}, other])

    def held() -> list[dict[str, str]]:
        return [each["labels"] for each in server.get("alerts") if each["status"]["inhibitedBy"]]

    wait_for(lambda: labels in held(), "the lesser one to be held")
    assert other not in held()


def test_who_gets_what(server: Alertmanager, inbox: tuple[Inbox, str]) -> None:
    """A node is gone, one's exporter is down, one has a dead worker: three nodes, what is sent."""
    everything = sorted(LABELS.keys() - {WATCHDOG})
    without_exporter = [name for name in everything if name != "WorkerNodeGone"]
    on_workers = [
        name
        for name in without_exporter
        if "instance" in LABELS[name] and LABELS[name]["severity"] != "info"
    ]
    server.post([alert(name, node="gone") for name in everything])
    server.post([alert(name, node="blind") for name in without_exporter])
    server.post([alert(name, node="well") for name in (*on_workers, "WorkerOOMKilled")])
    messages = inbox[0]
    messages.alert("WorkerNodeGone", node="gone")
    messages.alert("WorkerExporterDown", node="blind")
    messages.alert("WorkerDown", node="well")
    messages.alert("WorkerOOMKilled", node="well")
    # What comes after all these has waited in its group since after all these.
    server.post([alert("WorkerDown", node="after"), alert("WorkerOOMKilled", node="after")])
    messages.alert("WorkerDown", node="after")
    messages.alert("WorkerOOMKilled", node="after")
    receiver, _ = messages.alert(WATCHDOG)
    assert receiver == "watchdog"
    about = {each for each in messages.fired if each[2] in ("gone", "blind", "well")}
    assert about == {
        ("critical", "WorkerNodeGone", "gone"),
        ("critical", "WorkerExporterDown", "blind"),
        ("warning", "WorkerLaunchesFailing", "blind"),
        ("critical", "WorkerDown", "well"),
        ("warning", "WorkerOOMKilled", "well"),
    }


def test_two_hundred_workers_of_a_node_are_one_message(
    server: Alertmanager, inbox: tuple[Inbox, str]
) -> None:
    workers = [alert("WorkerDown", node="full", instance=str(n)) for n in range(200)]
    server.post(workers)
    server.post([alert("WorkerDown", node="other")])
    inbox[0].alert("WorkerDown", node="other")
    inbox[0].alert("WorkerDown", node="full")
    mine = [
        [each.labels["instance"] for each in message.alerts]
        for message in inbox[0].messages
        if message.alerts[0].labels.get("node") == "full"
    ]
    assert [sorted(each, key=int) for each in mine] == [[str(n) for n in range(200)]]


def test_the_watchdog_is_sent_again_and_again(
    server: Alertmanager, inbox: tuple[Inbox, str]
) -> None:
    server.post([LABELS[WATCHDOG]])
    inbox[0].message(lambda message: message.receiver == "watchdog", "two signs of life", 2)


# Silences


def silences() -> dict[str, str]:
    """The line of each runbook that silences its alert, and that of the guide for a node."""
    pages = {page.stem: page for page in (*RUNBOOKS.glob("*.md"), GUIDE)}
    found = {
        name: re.findall(r"(?m)^amtool silence add (?:.*\\\n)*.*$", page.read_text())
        for name, page in pages.items()
    }
    assert all(len(lines) == 1 for name, lines in found.items() if name != WATCHDOG)
    assert found[WATCHDOG] == []
    return {name: lines[0] for name, lines in found.items() if lines}


@pytest.mark.parametrize(("page", "line"), silences().items())
def test_the_silence_of_a_page_silences_its_alert(
    page: str, line: str, server: Alertmanager
) -> None:
    """Run by a shell as it stands, its address apart; and it silences no other node's."""
    places = {"node": "NODE", "service": "SERVICE", "instance": "INSTANCE", "uuid": "UUID"}
    name = page if page in LABELS else "WorkerDown"
    mine, other = alert(name, **places), alert(name, **{**places, "node": "OTHER"})
    server.post([mine, other])
    identity = in_shell(line, server)
    silenced = [
        each["labels"] for each in server.get("alerts") if identity in each["status"]["silencedBy"]
    ]
    assert mine in silenced
    assert other not in silenced


def in_shell(line: str, server: Alertmanager) -> str:
    """What a line of a page prints, run by a shell as it stands, its address apart."""
    require("amtool")
    assert "--alertmanager.url=http://127.0.0.1:9093" in line.split()
    command = line.replace("http://127.0.0.1:9093", server.url)
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    return said.stdout.strip()


def guided(words: str) -> str:
    """The guide's line that begins with these words of amtool."""
    found = re.search(rf"(?m)^ *(amtool {words} (?:.*\\\n)*.*)$", GUIDE.read_text())
    assert found
    return found[1]


def test_the_guides_lines_on_silences_and_on_trying_it(server: Alertmanager) -> None:
    in_shell(guided("alert add"), server)
    [tried] = [each for each in server.get("alerts") if each["labels"].get("node") == "try"]
    assert tried["labels"] == {"alertname": "WorkerDown", "severity": "critical", "node": "try"}
    assert tried["annotations"] == {"description": "A try. Nothing is wrong."}
    identity = in_shell(guided("silence add"), server)
    assert identity in in_shell(guided("silence query"), server)
    in_shell(re.sub(r"\bID$", identity, guided("silence expire")), server)
    assert identity not in in_shell(guided("silence query"), server)


# The chat


def in_chat(url: str, file: Path) -> dict[str, Any]:
    """The shipped configuration as it is, with the file of the chat's URL elsewhere."""
    file.write_text(f"{url}/chat\n")
    config = shipped(HASTE)
    config["global"]["slack_api_url_file"] = str(file)
    return config


def whole(name: str, **changed: str) -> dict[str, Any]:
    """An alert as Prometheus sends it."""
    labels = alert(name, **changed)
    about = f"{labels.get('service', '')}/{labels.get('instance', '')} on {labels['node']}"
    annotations = {
        "summary": f"The summary of {name}.",
        "description": f"{about} is in trouble.",
        "runbook_url": f"https://example.org/{name}.md",
    }
    return {"labels": labels, "annotations": annotations}


def read(inbox: Inbox, title: str) -> tuple[str, list[str]]:
    """The colour and the lines of the first message in the chat with this title, waited for."""

    def has_it(message: Message) -> bool:
        return bool(message.content["attachments"][0]["title"] == title)

    [attachment] = inbox.message(has_it, title).content["attachments"]
    assert attachment["title_link"].startswith("http://")
    return attachment["color"], attachment["text"].splitlines()


def test_a_person_reads_what_it_is_and_what_to_do(tmp_path: Path) -> None:
    program = require("prometheus-alertmanager")
    many = [whole("WorkerDown", node="full", instance=f"{n:03}") for n in range(12)]
    foreign = {"labels": {"alertname": "Foreign"}, "annotations": {"summary": "Not ours."}}
    with (
        running_inbox() as (inbox, url),
        running_alertmanager(program, tmp_path / "am", in_chat(url, tmp_path / "url")) as server,
    ):
        server.post_whole([whole("WorkerDown"), whole("WorkerGPUHot"), foreign, *many])
        assert read(inbox, "[critical] WorkerDown: llm/8080 on host-a") == (
            "danger",
            [
                "The summary of WorkerDown.",
                "• llm/8080 on host-a is in trouble.",
                "What to do: https://example.org/WorkerDown.md",
            ],
        )
        assert read(inbox, "[critical] WorkerDown: 12 on full") == (
            "danger",
            [
                "The summary of WorkerDown.",
                *(f"• llm/{n:03} on full is in trouble." for n in range(10)),
                "… and more: 12 in all",
                "What to do: https://example.org/WorkerDown.md",
            ],
        )
        color, lines = read(inbox, "[warning] WorkerGPUHot: GPU 0 on host-a")
        assert (color, lines[0]) == ("warning", "The summary of WorkerGPUHot.")
        assert read(inbox, "[alert] Foreign") == ("warning", ["Not ours."])

        over = {"startsAt": "2020-01-01T00:00:00Z", "endsAt": "2020-01-01T00:00:01Z"}
        server.post_whole([{**whole("WorkerDown"), **over}, {**many[0], **over}])
        color, lines = read(inbox, "[resolved] WorkerDown: llm/8080 on host-a")
        assert color == "good"
        assert "Over: llm/8080 on host-a" in lines
        color, lines = read(inbox, "[critical] WorkerDown: 11 on full")
        assert color == "danger"
        assert "Over: llm/000 on full" in lines


def test_it_starts_as_it_is_and_says_what_is_missing(tmp_path: Path) -> None:
    """Without the file of the chat's URL: an error for what was to be sent, and nothing before."""
    program = require("prometheus-alertmanager")
    config = shipped(HASTE)
    missing_file = tmp_path / "nothing-here"
    config["global"]["slack_api_url_file"] = str(missing_file)
    with running_alertmanager(program, tmp_path / "am", config) as server:

        def errors() -> list[str]:
            lines = server.log.read_text().splitlines()
            return [line for line in lines if re.search("level=(error|ERROR)", line)]

        assert errors() == []
        server.post([alert("WorkerDown"), LABELS[WATCHDOG]])

        wait_for(errors, "an error in the log")
        assert all(str(missing_file) in line and "critical/slack" in line for line in errors())
