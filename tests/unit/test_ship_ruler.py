"""Rules to a ruler: Mimir's API, Cortex', and Grafana's before and in place of one."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from tests.ruler import BEHIND, CORTEX, MIMIR, WITHIN, Ruler
from tests.standin import Reply, StandIn, page, replied, standing_in

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.ship.access import Access
from worker_sidecar.ship.errors import DeniedError, ServerError, WrongServerError
from worker_sidecar.ship.http import Server
from worker_sidecar.ship.ruler import api
from worker_sidecar.ship.ruler.ship import RulerOptions
from worker_sidecar.ship.ruler.ship import ship as ship_to
from worker_sidecar.ship.rules import Group, split

SPACE = "worker-exporter"


def groups(expression: str = "up == 0") -> Sequence[Group]:
    alert = {
        "alert": "WorkerDown",
        "expr": f"{expression}\n",
        "for": "90s",
        "labels": {"severity": "critical"},
    }
    records = [{"record": f"a:b{number}", "expr": "up"} for number in range(3)]
    return [
        {"name": "recording", "interval": "30s", "rules": records},
        {"name": "alerts", "interval": "30s", "rules": [alert]},
    ]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serving(stack: ExitStack, ruler: Ruler) -> StandIn:
    return stack.enter_context(standing_in(ruler))


def asking(standin: StandIn, **headers: str) -> Server:
    return Server(standin.url, Access(patience=0), headers)


def ship(
    ruler: api.Ruler,
    wanted: Sequence[Group] | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> list[str]:
    said: list[str] = []
    options = RulerOptions(SPACE, force, dry_run)
    ship_to(ruler, groups() if wanted is None else wanted, options, said.append)
    return said


@pytest.mark.parametrize("path", [MIMIR, CORTEX])
def test_groups_are_shipped_once(stack: ExitStack, path: str) -> None:
    kept = Ruler(path)
    standin = serving(stack, kept)
    ruler = api.ruler_at(asking(standin))
    assert ship(ruler) == ["recording: created", "alerts: created", "rule groups: 2 created"]
    assert kept.groups("anonymous", SPACE) == {"recording": 3, "alerts": 1}
    posts = len(standin.made("POST"))
    assert posts == 2
    assert ship(api.ruler_at(asking(standin)))[-1] == "rule groups: 2 unchanged"
    assert len(standin.made("POST")) == posts


def test_a_tenant_has_rules_of_its_own(stack: ExitStack) -> None:
    kept = Ruler()
    standin = serving(stack, kept)
    ship(api.ruler_at(asking(standin, **{"X-Scope-OrgID": "team"})))
    assert kept.groups("team", SPACE)
    assert not kept.groups("anonymous", SPACE)


def test_what_differs_is_written_and_what_is_no_longer_shipped_deleted(stack: ExitStack) -> None:
    kept = Ruler()
    standin = serving(stack, kept)
    kept.namespaces["anonymous"] = {"theirs": [{"name": "mine", "rules": [{"record": "x"}]}]}
    ruler = api.ruler_at(asking(standin))
    without_interval = {"name": "a/b", "rules": [{"record": "c:d", "expr": "up"}]}
    ship(ruler, [*groups(), without_interval])
    assert ship(ruler, [*groups(), without_interval])[-1] == "rule groups: 3 unchanged"
    assert ship(ruler, groups("up == 1")) == [
        "recording: unchanged",
        "alerts: updated",
        "a/b: deleted (no longer shipped)",
        "rule groups: 1 updated, 1 deleted, 1 unchanged",
    ]
    assert kept.groups("anonymous", SPACE) == {"recording": 3, "alerts": 1}
    assert kept.groups("anonymous", "theirs") == {"mine": 1}
    assert kept.namespaces["anonymous"][SPACE][-1]["rules"][0]["expr"].strip() == "up == 1"


def test_a_namespace_of_somebody_elses_is_left_alone(stack: ExitStack) -> None:
    kept = Ruler()
    theirs = {"name": "theirs", "rules": [{"record": "x", "expr": "1"}]}
    kept.namespaces["anonymous"] = {SPACE: [theirs]}
    ruler = api.ruler_at(asking(serving(stack, kept)))
    with pytest.raises(RefusedError, match=r"^theirs: .* nothing of ours.*\nnothing was shipped$"):
        ship(ruler)
    assert kept.groups("anonymous", SPACE) == {"theirs": 1}
    assert "theirs: deleted (no longer shipped)" in ship(ruler, force=True)
    assert "theirs" not in kept.groups("anonymous", SPACE)


def test_pieces_of_before_make_the_namespace_ours(stack: ExitStack) -> None:
    ruler = api.ruler_at(asking(serving(stack, Ruler())))
    ship(ruler, [group for group in split(groups(), 2) if group["name"] == "recording-2"])
    assert "recording-2: deleted (no longer shipped)" in ship(ruler)


@pytest.mark.parametrize("namespace", ["", ".", "..", "a/b"])
def test_a_namespace_that_would_be_another_path(stack: ExitStack, namespace: str) -> None:
    standin = serving(stack, Ruler())
    ruler = api.ruler_at(asking(standin))
    with pytest.raises(InputError, match="--namespace takes a name"):
        ship_to(ruler, groups(), RulerOptions(namespace), print)
    assert not standin.made("POST")


@pytest.mark.parametrize("end", [BrokenPipeError, KeyboardInterrupt])
def test_what_somebody_ends_is_put_back(
    stack: ExitStack, end: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    kept = Ruler()
    ruler = api.ruler_at(asking(serving(stack, kept)))
    ship(ruler, groups()[:1])
    before = copy.deepcopy(kept.groups("anonymous", SPACE))
    said: list[str] = []

    def tell(line: str) -> None:
        if "alerts" in line:
            raise end
        said.append(line)

    with pytest.raises(end):
        ship_to(ruler, groups(), RulerOptions(SPACE), tell)
    assert said == ["recording: unchanged"]
    assert kept.groups("anonymous", SPACE) == before
    assert "all groups are put back as they were" in caplog.text


def test_a_dry_run_shows_the_differences(stack: ExitStack) -> None:
    kept = Ruler()
    standin = serving(stack, kept)
    ruler = api.ruler_at(asking(standin))
    ship(ruler)
    before = copy.deepcopy(kept.namespaces)
    writes = len(standin.made("POST"))
    said = ship(ruler, groups("up == 1")[1:], dry_run=True)
    assert said[0] == "alerts: would be updated"
    assert "-- alert: WorkerDown" not in said
    assert "-  expr: up == 0" in said
    assert "+  expr: up == 1" in said
    assert "recording: would be deleted (no longer shipped)" in said
    assert said[-1] == "rule groups: 1 updated, 1 deleted (dry run: nothing was done)"
    assert kept.namespaces == before
    assert len(standin.made("POST")) == writes


def test_a_limit_of_rules_says_what_to_do(stack: ExitStack) -> None:
    kept = Ruler(limit=2)
    ruler = api.ruler_at(asking(serving(stack, kept)))
    with pytest.raises(InputError) as raised:
        ship(ruler)
    assert str(raised.value).splitlines() == [
        "the ruler refuses recording: per-user rules per rule group limit (limit: 2 actual: 3)"
        " exceeded; --max-rules makes smaller groups",
        "all groups are put back as they were",
    ]
    ship(ruler, split(groups(), 2))
    assert kept.groups("anonymous", SPACE) == {"recording": 2, "recording-2": 1, "alerts": 1}
    assert ship(ruler, split(groups(), 2))[-1] == "rule groups: 3 unchanged"


def test_a_failure_puts_back_what_was_written_before(stack: ExitStack) -> None:
    kept = Ruler()
    standin = serving(stack, kept)
    ruler = api.ruler_at(asking(standin))
    ship(ruler, groups()[:1])
    before = copy.deepcopy(kept.namespaces)
    changed = [
        {**groups()[0], "interval": "1m"},
        {"name": "new", "rules": [{"record": "c:d", "expr": "up"}]},
        {"name": "bad", "rules": [{"record": "x", "expr": "sum("}]},
    ]
    # the third; the first two are written, and put back
    put = kept._put

    def refusing(tenant: Any, namespace: str, request: Any) -> Reply:
        if b"sum(" in request.body:
            return replied(403, {"message": "denied"})
        return put(tenant, namespace, request)

    kept._put = refusing  # type: ignore[method-assign]
    with pytest.raises(DeniedError) as raised:
        ship(ruler, changed)
    assert str(raised.value).splitlines()[-1] == "all groups are put back as they were"
    assert ship(ruler, groups()[:1])[-1] == "rule groups: 1 unchanged"
    assert kept.groups("anonymous", SPACE) == {"recording": 3}
    assert kept.namespaces["anonymous"][SPACE][0]["interval"] == "30s"
    assert before["anonymous"][SPACE][0]["interval"] == "30s"


def test_what_cannot_be_put_back_is_named(stack: ExitStack) -> None:
    standin = serving(stack, Ruler())
    ruler = api.ruler_at(asking(standin))
    standin.refuse(Reply(500), method="POST|DELETE", times=9)
    with pytest.raises(ServerError) as raised:
        ship(ruler)
    assert str(raised.value).splitlines()[-1] == "could not be put back as it was: recording"


def test_a_ruler_that_forgets_is_found_out(stack: ExitStack) -> None:
    standin = serving(stack, Ruler())
    ruler = api.ruler_at(asking(standin))
    standin.refuse(replied(202, {}), method="POST", path=".*", times=2)
    with pytest.raises(ServerError, match="the ruler took recording, but does not have it"):
        ship(ruler)


def test_what_is_no_ruler(stack: ExitStack) -> None:
    with pytest.raises(WrongServerError, match="there is no ruler API; it may be off"):
        api.ruler_at(asking(stack.enter_context(standing_in(lambda _: page(404)))))
    prometheus = replied(200, {"status": "success", "data": {"groups": []}})
    missing = Reply(404, b"404 page not found\n", "text/plain")
    standin = stack.enter_context(
        standing_in(lambda request: prometheus if request.path == CORTEX else missing)
    )
    with pytest.raises(WrongServerError, match=r"is a Prometheus, .* use --directory"):
        api.ruler_at(asking(standin))
    with pytest.raises(WrongServerError, match="answered with a web page, not a YAML mapping"):
        api.ruler_at(asking(stack.enter_context(standing_in(lambda _: page()))))


@pytest.mark.parametrize(
    ("source", "subtype"),
    [
        ({"type": "prometheus", "jsonData": {"prometheusType": "Mimir"}}, "mimir"),
        ({"type": "prometheus", "jsonData": {"prometheusType": "Cortex"}}, "cortex"),
        ({"type": "prometheus"}, "mimir"),
    ],
)
def test_through_grafana_to_the_ruler_of_a_data_source(
    stack: ExitStack, source: dict[str, Any], subtype: str
) -> None:
    kept = Ruler(BEHIND, source=source)
    standin = serving(stack, kept)
    ruler = api.ruler_behind(asking(standin), "mimir-1")
    assert ship(ruler)[-1] == "rule groups: 2 created"
    assert ship(ruler)[-1] == "rule groups: 2 unchanged"
    assert {request.query["subtype"] for request in standin.requests[1:]} == {subtype}
    with pytest.raises(InputError, match="no data source with the uid other"):
        api.ruler_behind(
            asking(stack.enter_context(standing_in(lambda _: replied(404, {})))), "other"
        )


def test_a_data_source_of_another_kind(stack: ExitStack) -> None:
    standin = serving(stack, Ruler(BEHIND, source={"type": "loki"}))
    with pytest.raises(InputError, match="is of type loki, no Prometheus"):
        api.ruler_behind(asking(standin), "mimir-1")


def test_rules_that_grafana_keeps_itself(stack: ExitStack) -> None:
    kept = Ruler(WITHIN)
    standin = serving(stack, kept)
    ruler = api.ruler_within(asking(standin, **api.managed_headers("prom-1")))
    assert ship(ruler)[-1] == "rule groups: 2 created"
    headers = standin.requests[-1].headers
    assert headers["X-Grafana-Alerting-Datasource-UID"] == "prom-1"
    assert headers["X-Grafana-Alerting-Target-Datasource-UID"] == "prom-1"
    with pytest.raises(WrongServerError, match="needs Grafana 12"):
        api.ruler_within(asking(stack.enter_context(standing_in(lambda _: page(404)))))
