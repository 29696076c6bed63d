"""Dashboards into a Grafana, by both of its APIs: what is written, left and refused."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.grafana import PASSWORD, TOKEN, USER, Grafana
from tests.standin import Reply, StandIn, page, replied, standing_in

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.ship.access import Access
from worker_sidecar.ship.bundle import Dashboard
from worker_sidecar.ship.errors import ConflictError, DeniedError, ServerError, WrongServerError
from worker_sidecar.ship.grafana.alike import alike
from worker_sidecar.ship.grafana.ship import GrafanaOptions
from worker_sidecar.ship.grafana.ship import ship as ship_to
from worker_sidecar.ship.http import Server

FLEET, GPU = "Workers / Fleet", "Workers / GPU"
STAMP = r"Shipped by worker-sidecar \(sha256:[0-9a-f]{16}, folder workers, version %d\)"


def model(uid: str, title: str, **more: Any) -> dict[str, Any]:
    variable = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    node = {"name": "node", "type": "query"}
    return {
        "uid": uid,
        "title": title,
        "schemaVersion": 41,
        "panels": [{"id": 1, "title": "CPU", "type": "timeseries", "transparent": False}],
        "templating": {"list": [variable, node]},
        **more,
    }


def dashboards(**more: Any) -> list[Dashboard]:
    made = [("worker-fleet", FLEET), ("worker-gpu", GPU)]
    return [Dashboard(uid, title, model(uid, title, **more)) for uid, title in made]


@dataclass
class Bench:
    """A Grafana, and shipping to it."""

    grafana: Grafana
    server: StandIn
    said: list[str] = field(default_factory=list)

    def ship(
        self, what: list[Dashboard] | None = None, *, patience: float = 0, **options: Any
    ) -> list[str]:
        """The lines that shipping says."""
        self.said = []
        access = Access(token=TOKEN, patience=patience)
        server = Server(self.server.url + self.grafana.path, access, sleep=lambda _: None)
        ship_to(server, what or dashboards(), GrafanaOptions(**options), self.said.append)
        return self.said

    def writes(self) -> list[str]:
        """What was asked for that is not only a look."""
        return [each.path for each in self.server.requests if each.method != "GET"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bench_with(stack: ExitStack, grafana: Grafana) -> Bench:
    return Bench(grafana, stack.enter_context(standing_in(grafana)))


@pytest.fixture(params=["classic", "v1"])
def bench(request: pytest.FixtureRequest, stack: ExitStack) -> Bench:
    """Either of Grafana's APIs."""
    return bench_with(stack, Grafana(stable=("v1",) if request.param == "v1" else ()))


def test_dashboards_are_created_in_a_new_folder(bench: Bench) -> None:
    assert bench.ship() == [
        "folder Workers: created",
        f"{FLEET}: created",
        f"{GPU}: created",
        "dashboards: 2 created",
    ]
    assert bench.grafana.folders["workers"]["title"] == "Workers"
    saved = bench.grafana.dashboards["worker-fleet"]
    assert saved.folder == "workers"
    assert saved.model["panels"][0]["title"] == "CPU"
    assert re.fullmatch(STAMP % 1, saved.messages[-1])


def test_the_folder_of_the_resource_api_is_for_all(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(stable=("v1",)))
    bench.ship()
    assert bench.grafana.folders["workers"]["grants"] == "default"


def test_twice_in_a_row_writes_nothing(bench: Bench) -> None:
    bench.ship()
    before = copy.deepcopy(bench.grafana.dashboards)
    written = len(bench.writes())
    assert bench.ship() == [
        f"{FLEET}: unchanged",
        f"{GPU}: unchanged",
        "dashboards: 2 unchanged",
    ]
    assert len(bench.writes()) == written
    assert bench.grafana.dashboards == before


def test_a_newer_dashboard_takes_the_place_of_an_older_one(bench: Bench) -> None:
    bench.ship()
    newer = dashboards()
    newer[1] = Dashboard("worker-gpu", GPU, model("worker-gpu", GPU, refresh="1m"))
    assert bench.ship(newer) == [
        f"{FLEET}: unchanged",
        f"{GPU}: updated",
        "dashboards: 1 updated, 1 unchanged",
    ]
    saved = bench.grafana.dashboards["worker-gpu"]
    assert saved.model["refresh"] == "1m"
    assert re.fullmatch(STAMP % 2, saved.messages[-1])
    assert bench.ship(newer)[-1] == "dashboards: 2 unchanged"


def test_what_others_wrote_on_a_resource_stays(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(stable=("v1",)))
    bench.ship()
    bench.grafana.dashboards["worker-gpu"].annotations["example.org/owner"] = "team"
    bench.ship(dashboards(refresh="1m"))
    kept = bench.grafana.dashboards["worker-gpu"].annotations
    assert kept["example.org/owner"] == "team"


def save_by_hand(grafana: Grafana) -> None:
    grafana.save_by_hand("worker-gpu", panels=[])


def edit_in_place(grafana: Grafana) -> None:
    grafana.edit_in_place("worker-gpu", panels=[])


def move(grafana: Grafana) -> None:
    grafana.folders["attic"] = {"uid": "attic", "title": "Attic", "parent": ""}
    grafana.move_by_hand("worker-gpu", "attic")


def import_another(grafana: Grafana) -> None:
    del grafana.dashboards["worker-gpu"]
    grafana.add("worker-gpu", "Mine", "")


HANDS = pytest.mark.parametrize(
    "by_hand", [save_by_hand, move, import_another], ids=lambda hand: hand.__name__
)


@HANDS
def test_what_somebody_changed_is_left_and_all_else_with_it(
    bench: Bench, by_hand: Callable[[Grafana], None]
) -> None:
    bench.ship()
    by_hand(bench.grafana)
    before = copy.deepcopy(bench.grafana.dashboards)
    written = len(bench.writes())
    for dry_run in (False, True):
        # the other dashboard has a newer version, which is not written either
        newer = dashboards()
        newer[0] = Dashboard("worker-fleet", FLEET, model("worker-fleet", FLEET, refresh="1m"))
        with pytest.raises(RefusedError) as raised:
            bench.ship(newer, dry_run=dry_run)
        assert raised.value.exit_code == 4
        assert str(raised.value).splitlines() == [
            f"{GPU}: somebody else has saved or moved it; --dry-run shows the differences",
            "nothing was shipped",
        ]
    assert len(bench.writes()) == written
    assert bench.grafana.dashboards == before


@HANDS
def test_force_overwrites_it(bench: Bench, by_hand: Callable[[Grafana], None]) -> None:
    bench.ship()
    by_hand(bench.grafana)
    said = bench.ship(force=True)
    assert said[0] == f"{FLEET}: unchanged"
    assert said[1].startswith(f"{GPU}: updated (forced: ")
    saved = bench.grafana.dashboards["worker-gpu"]
    assert saved.folder == "workers"
    assert saved.model["panels"][0]["title"] == "CPU"
    assert bench.ship()[-1] == "dashboards: 2 unchanged"


def test_a_tool_that_keeps_the_message_is_not_taken_for_us(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(stable=("v1",)))
    bench.ship()
    edit_in_place(bench.grafana)
    with pytest.raises(RefusedError, match="somebody else has saved"):
        bench.ship()


def test_the_same_content_by_other_hands_is_nothing_to_refuse(bench: Bench) -> None:
    shipped = dashboards(schemaVersion=42)
    bench.ship(shipped)
    bench.grafana.save_by_hand("worker-gpu", description="")
    assert bench.ship(shipped)[-1] == "dashboards: 2 unchanged"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": None, "c": False, "d": "", "e": [], "f": {}}, {"a": 1.0}, True),
        ({"a": 1, "b": 0}, {"a": 1}, False),
        ({"a": True}, {"a": False}, False),
        ({"a": [{"builtIn": 1}, {"x": 1}]}, {"a": [{"x": 1, "y": None}]}, True),
        ({"a": [{"builtIn": 0}]}, {"a": []}, False),
        ({"a": [{"id": 2, "x": None}, {"id": 1}]}, {"a": [{"id": 1}, {"id": 2}]}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
    ],
)
def test_what_differs_only_in_spelling(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    for pair in (alike(one, other), alike(other, one)):
        assert (pair[0] == pair[1]) is same


def test_a_panel_more_does_not_make_all_others_differ() -> None:
    panels = [{"id": 7, "mine": 1}, {"id": 1, "x": 1}, {"id": 2, "transparent": False}]
    left, right = alike({"panels": panels}, {"panels": [{"id": 1, "x": 1}, {"id": 2}]})
    assert left["panels"] == [{"id": 7, "mine": 1}, *right["panels"]]


def test_a_grafana_that_migrates_what_it_reads_is_no_hand(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(stable=("v1",)))
    bench.ship()
    assert bench.grafana.dashboards["worker-gpu"].model["schemaVersion"] == 42
    assert bench.ship()[-1] == "dashboards: 2 unchanged"


def test_a_version_that_is_not_kept_is_nobodys(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana())
    bench.ship()
    gone = replied(500, {"message": "Dashboard version 1 not found for dashboardId 7"})
    bench.server.refuse(gone, path=".*/versions/.*")
    with pytest.raises(RefusedError, match="somebody else has saved"):
        bench.ship(dashboards(refresh="1m"))


def test_a_version_that_cannot_be_read_now_is_waited_for(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana())
    bench.ship()
    bench.server.refuse(replied(500, {"message": "database is locked"}), path=".*/versions/.*")
    assert bench.ship(dashboards(refresh="1m"))[-1] == "dashboards: 2 updated"


def test_another_dashboard_of_the_title_is_told(bench: Bench) -> None:
    bench.grafana.folders["workers"] = {"uid": "workers", "title": "Workers", "parent": ""}
    bench.grafana.add("mine", GPU, "workers")
    bench.grafana.add("elsewhere", FLEET, "")
    bench.grafana.add("longer", f"{FLEET} 2", "workers")
    with pytest.raises(RefusedError) as raised:
        bench.ship()
    assert str(raised.value).splitlines() == [
        f"{GPU}: a dashboard of this title is there with another uid: mine",
        "nothing was shipped",
    ]
    assert not bench.writes()
    bench.ship(force=True)
    assert set(bench.grafana.dashboards) >= {"worker-fleet", "worker-gpu", "mine"}


def test_a_provisioned_dashboard_cannot_be_saved(bench: Bench) -> None:
    bench.ship()
    bench.grafana.dashboards["worker-gpu"].file = "workers/gpu.json"
    assert bench.ship()[-1] == "dashboards: 2 unchanged"
    written = len(bench.writes())
    with pytest.raises(RefusedError, match=r"from (the file )?workers/gpu.json") as raised:
        bench.ship(dashboards(refresh="1m"), force=True)
    assert "cannot be saved" in str(raised.value)
    assert len(bench.writes()) == written


def test_a_dry_run_shows_and_writes_nothing(bench: Bench) -> None:
    assert bench.ship(dry_run=True) == [
        "folder Workers: would be created",
        f"{FLEET}: would be created",
        f"{GPU}: would be created",
        "dashboards: 2 created (dry run: nothing was done)",
    ]
    assert not bench.writes()
    bench.ship(dashboards(schemaVersion=42))
    written = len(bench.writes())
    said = bench.ship(dashboards(schemaVersion=42, refresh="1m"), dry_run=True)
    assert said[0] == f"{FLEET}: would be updated"
    assert said[1:3] == [f"--- {FLEET} (there)", f"+++ {FLEET} (shipped)"]
    changes = [line for line in said if line[0] in "+-" and line[1] not in "+-"]
    assert changes == ['+ "refresh": "1m",'] * 2
    assert said[-1] == "dashboards: 2 updated (dry run: nothing was done)"
    assert len(bench.writes()) == written


def test_somebody_who_saves_at_the_same_moment(bench: Bench) -> None:
    bench.ship()
    reply = replied(409, {"message": "the object has been modified"})
    bench.server.refuse(reply, method="POST|PUT", path=".*dashboards.*")
    with pytest.raises(ConflictError) as raised:
        bench.ship(dashboards(refresh="1m"))
    first, last = str(raised.value).splitlines()
    assert first.startswith(f"{FLEET}: ")
    assert first.endswith("somebody saves it at this moment, try again")
    assert last == f"written: none; not written: {FLEET}, {GPU}"


def test_an_old_version_never_overwrites_a_new_one(bench: Bench) -> None:
    """The server itself refuses a version that is not the newest, for we send what we have seen."""
    bench.ship()
    looked = len(bench.server.requests)

    def meanwhile(line: str) -> None:
        if line.startswith(FLEET):
            bench.grafana.save_by_hand("worker-gpu", panels=[])

    server = Server(bench.server.url, Access(token=TOKEN, patience=0))
    with pytest.raises(ConflictError) as raised:
        ship_to(server, dashboards(refresh="1m"), GrafanaOptions(), meanwhile)
    assert str(raised.value).splitlines()[-1] == f"written: {FLEET}; not written: {GPU}"
    assert bench.grafana.dashboards["worker-gpu"].model["panels"] == []
    assert len(bench.server.requests) > looked


@pytest.mark.parametrize("create", [True, False], ids=["create", "update"])
def test_an_answer_that_was_lost_is_no_conflict(bench: Bench, create: bool) -> None:
    if not create:
        bench.ship()
    path = ".*(db|dashboards(/worker-fleet)?)"
    bench.server.refuse(Reply(502), method="POST|PUT", path=path, done=True)
    server = Server(bench.server.url, Access(token=TOKEN), sleep=lambda _: None)
    said: list[str] = []
    ship_to(server, dashboards(refresh="1m"), GrafanaOptions(), said.append)
    assert said[-1] == f"dashboards: 2 {'created' if create else 'updated'}"
    versions = [saved.generation for saved in bench.grafana.dashboards.values()]
    assert versions == [1 if create else 2] * 2


def test_a_lost_answer_to_the_new_folder(bench: Bench) -> None:
    bench.server.refuse(Reply(502), method="POST", path=".*folders", done=True)
    server = Server(bench.server.url, Access(token=TOKEN), sleep=lambda _: None)
    ship_to(server, dashboards(), GrafanaOptions(), bench.said.append)
    assert bench.said[-1] == "dashboards: 2 created"


def test_a_failure_in_the_middle_says_what_is_written(bench: Bench) -> None:
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        if line.startswith(FLEET):
            denied = replied(403, {"message": "denied"})
            bench.server.refuse(denied, method="POST", path=".*(db|/dashboards)")

    server = Server(bench.server.url, Access(token=TOKEN, patience=0))
    with pytest.raises(DeniedError) as raised:
        ship_to(server, dashboards(), GrafanaOptions(), tell)
    first, last = str(raised.value).splitlines()
    assert first.startswith(f"{GPU}: POST ")
    assert last == f"written: folder Workers, {FLEET}; not written: {GPU}"
    assert set(bench.grafana.dashboards) == {"worker-fleet"}
    assert said == ["folder Workers: created", f"{FLEET}: created"]


def test_a_wrong_token_is_told_before_anything(bench: Bench) -> None:
    server = Server(bench.server.url, Access(token="wrong", patience=0))
    with pytest.raises(DeniedError, match=r"not accepted \(401: Invalid API key"):
        ship_to(server, dashboards(), GrafanaOptions(), bench.said.append)
    assert not bench.writes()
    assert bench.said == []


def test_a_user_and_a_password(bench: Bench) -> None:
    server = Server(bench.server.url, Access(user=USER, password=PASSWORD))
    ship_to(server, dashboards(), GrafanaOptions(), bench.said.append)
    assert bench.said[-1] == "dashboards: 2 created"


# Which Grafana, and which API


def test_a_grafana_below_a_path(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(path="/monitoring/grafana"))
    assert bench.ship()[-1] == "dashboards: 2 created"
    server = Server(bench.server.url, Access(token=TOKEN, patience=0))
    with pytest.raises(WrongServerError, match="is no Grafana: GET"):
        ship_to(server, dashboards(), GrafanaOptions(), bench.said.append)


@pytest.mark.parametrize("reply", [page(), replied(200, {"status": "ok"}), page(404)])
def test_what_is_no_grafana(bench: Bench, reply: Reply) -> None:
    bench.server.refuse(reply, path="/api/health")
    with pytest.raises(WrongServerError, match="is no Grafana: ") as raised:
        bench.ship()
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("stable", "api", "used"),
    [
        ((), "auto", "/api/dashboards/db"),
        (("v1beta1",), "auto", "/api/dashboards/db"),
        (("v1",), "auto", "/apis/dashboard.grafana.app/v1/namespaces/org-2/dashboards"),
        (("v1beta1", "v1"), "auto", "/apis/dashboard.grafana.app/v1/namespaces/org-2/dashboards"),
        (("v1",), "classic", "/api/dashboards/db"),
        (
            ("v1beta1",),
            "resources",
            "/apis/dashboard.grafana.app/v1beta1/namespaces/org-2/dashboards",
        ),
    ],
)
def test_the_api_is_what_the_server_has(
    stack: ExitStack, stable: tuple[str, ...], api: str, used: str
) -> None:
    bench = bench_with(stack, Grafana(stable=stable, namespace="org-2"))
    bench.ship(api=api)
    assert bench.server.made("POST")[-1] == used


def test_an_api_that_is_not_there(stack: ExitStack) -> None:
    with pytest.raises(InputError, match="use --api classic"):
        bench_with(stack, Grafana()).ship(api="resources")


def test_what_was_shipped_by_one_api_is_known_by_the_other(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(stable=("v1",)))
    bench.ship(api="classic")
    assert bench.ship(dashboards(refresh="1m"))[-1] == "dashboards: 2 updated"
    assert bench.ship(dashboards(refresh="2m"), api="classic")[-1] == "dashboards: 2 updated"
    save_by_hand(bench.grafana)
    with pytest.raises(RefusedError):
        bench.ship()


# The folder


def add_folder(grafana: Grafana, uid: str, title: str, parent: str = "") -> None:
    grafana.folders[uid] = {"uid": uid, "title": title, "parent": parent}


def test_a_folder_that_is_there_by_its_title(bench: Bench) -> None:
    add_folder(bench.grafana, "a", "Other")
    add_folder(bench.grafana, "b", "Operations")
    add_folder(bench.grafana, "c", "Operations", parent="a")
    bench.ship(folder="Operations")
    assert bench.grafana.dashboards["worker-gpu"].folder == "b"
    assert set(bench.grafana.folders) == {"a", "b", "c"}


def test_two_folders_of_one_title(bench: Bench) -> None:
    add_folder(bench.grafana, "a", "Operations")
    add_folder(bench.grafana, "b", "Operations")
    with pytest.raises(InputError, match=r"several folders are titled Operations; .*: a, b"):
        bench.ship(folder="Operations")
    with pytest.raises(InputError, match="--folder-uid takes 1 to 40 letters"):
        bench.ship(folder_uid="b b")
    bench.ship(folder_uid="b")
    assert bench.grafana.dashboards["worker-gpu"].folder == "b"


def test_a_new_folder_of_another_title(bench: Bench) -> None:
    bench.ship(folder="Machine Room / GPUs")
    assert bench.grafana.folders["machine-room-gpus"]["title"] == "Machine Room / GPUs"
    assert bench.ship(folder="Machine Room / GPUs")[-1] == "dashboards: 2 unchanged"


def test_dashboards_move_when_they_are_told_to(bench: Bench) -> None:
    bench.ship()
    assert bench.ship(folder="Operations") == [
        "folder Operations: created",
        f"{FLEET}: updated (moved to the folder Operations)",
        f"{GPU}: updated (moved to the folder Operations)",
        "dashboards: 2 updated",
    ]
    assert bench.ship(folder="Operations")[-1] == "dashboards: 2 unchanged"


def test_a_renamed_folder_keeps_its_name(bench: Bench) -> None:
    bench.ship()
    bench.grafana.folders["workers"]["title"] = "Batch machines"
    assert bench.ship()[-1] == "dashboards: 2 unchanged"
    assert bench.grafana.folders["workers"]["title"] == "Batch machines"


def test_a_title_that_an_older_grafana_allows_once(stack: ExitStack) -> None:
    bench = bench_with(stack, Grafana(unique_folder_titles=True))
    add_folder(bench.grafana, "theirs", "Workers")
    with pytest.raises(ConflictError, match=r"same name already exists.*by --folder-uid"):
        bench.ship()
    assert not bench.grafana.dashboards


# The data source


def test_the_data_source_that_is_shown_first(bench: Bench) -> None:
    bench.grafana.sources["prom-1"] = {"uid": "prom-1", "name": "Main", "type": "prometheus"}
    bench.ship(data_source="prom-1")
    variable, node = bench.grafana.dashboards["worker-gpu"].model["templating"]["list"]
    assert variable["current"] == {"text": "Main", "value": "prom-1"}
    assert "current" not in node
    assert bench.ship(data_source="prom-1")[-1] == "dashboards: 2 unchanged"


def test_a_data_source_that_cannot_be(bench: Bench) -> None:
    bench.grafana.sources["loki-1"] = {"uid": "loki-1", "name": "Logs", "type": "loki"}
    with pytest.raises(InputError, match="no data source with the uid prom-9"):
        bench.ship(data_source="prom-9")
    with pytest.raises(InputError, match="the data source Logs is of type loki, no Prometheus"):
        bench.ship(data_source="loki-1")
    assert not bench.writes()


def test_who_may_not_see_data_sources_is_believed(bench: Bench) -> None:
    bench.server.refuse(replied(403, {}), path="/api/datasources/.*")
    bench.ship(data_source="prom-1")
    variable = bench.grafana.dashboards["worker-gpu"].model["templating"]["list"][0]
    assert variable["current"] == {"text": "prom-1", "value": "prom-1"}


def test_a_grafana_without_its_database(bench: Bench) -> None:
    bench.server.refuse(replied(503, {"database": "failing"}), path="/api/health", times=9)
    with pytest.raises(ServerError, match="/api/health: answered 503"):
        bench.ship()


def test_a_folder_that_nobody_has_is_not_made_by_a_slip(bench: Bench) -> None:
    with pytest.raises(InputError, match="no folder with the uid worker; --folder TITLE"):
        bench.ship(folder_uid="worker")
    assert not bench.writes()
    bench.ship(folder_uid="worker", folder="Mine")
    assert bench.grafana.folders["worker"]["title"] == "Mine"


def test_what_is_written_until_somebody_ends_it_is_said(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")

    def tell(line: str) -> None:
        if line.startswith(FLEET):
            raise BrokenPipeError

    server = Server(bench.server.url + bench.grafana.path, Access(token=TOKEN))
    with pytest.raises(BrokenPipeError):
        ship_to(server, dashboards(), GrafanaOptions(), tell)
    assert f"written: folder Workers, {FLEET}; not written: {GPU}" in caplog.text


def test_panels_whose_ids_are_none() -> None:
    panels = [{"id": [1]}, {"id": {}}]
    assert alike({"panels": panels}, {"panels": panels[:1]}) == (
        {"panels": panels},
        {"panels": panels[:1]},
    )


def test_a_grafana_that_starts_behind_a_balancer_is_waited_for(bench: Bench) -> None:
    bench.server.refuse(page(503), path="/api/health")
    assert bench.ship(patience=1)[-1] == "dashboards: 2 created"
