"""Places of containers: the exporter must find the same names in them."""

import re

import pytest

from worker_exporter.cgroup.identity import (
    Identity,
    by_path,
    by_pattern,
    compile_pattern,
    literal_directory,
)
from worker_sidecar.launch.docker.place import (
    container_name,
    in_directory,
    in_slice,
    pattern,
    possible,
)

ID = "5e1f" * 16


@pytest.mark.parametrize(
    ("slice_name", "parent", "cgroup"),
    [
        (
            "worker.slice",
            "worker-llm-8090.slice",
            "worker.slice/worker-llm.slice/worker-llm-8090.slice",
        ),
        (
            "my-team.slice",
            "my-team-llm-8090.slice",
            "my.slice/my-team.slice/my-team-llm.slice/my-team-llm-8090.slice",
        ),
    ],
)
def test_a_slice_is_the_worker_for_the_exporter(slice_name: str, parent: str, cgroup: str) -> None:
    place = in_slice(slice_name, "llm", "8090")
    assert (place.parent, place.cgroup, place.unit) == (parent, cgroup, parent)
    stem = slice_name.removesuffix(".slice")
    assert by_path(tuple(cgroup.split("/")[-2:]), stem) == Identity("llm", "8090")


def test_a_container_in_a_services_slice_has_its_own_id() -> None:
    place = in_slice("worker.slice", "llm", None)
    assert place.parent == "worker-llm.slice"
    path = f"{place.cgroup}/docker-{ID}.scope".removeprefix("worker.slice/")
    assert by_path(tuple(path.split("/")), "worker") == Identity("llm", ID[:12])


def test_a_directory_is_in_the_slice_where_systemd_does_not_run() -> None:
    place = in_directory("my-team.slice", "llm", "8090", systemd=False)
    assert place.parent == "/my.slice/my-team.slice/llm/8090"
    assert (place.cgroup, place.unit) == (place.parent[1:], None)
    assert by_path(("llm", "8090"), "my-team") == Identity("llm", "8090")


@pytest.mark.parametrize("slice_name", ["worker.slice", "my-team.slice"])
def test_a_directory_beside_systemd_is_found_by_the_pattern(slice_name: str) -> None:
    found = compile_pattern(pattern(slice_name))
    stem = slice_name.removesuffix(".slice")
    place = in_directory(slice_name, "llm", "8090", systemd=True)
    assert place.parent == f"/{stem}/llm/8090"
    assert by_pattern(place.cgroup, (found,)) == Identity("llm", "8090")
    service = in_directory(slice_name, "llm", None, systemd=True)
    assert by_pattern(f"{service.cgroup}/{ID}", (found,)) == Identity("llm", ID[:12])
    for other in (service.cgroup, f"{place.cgroup}/{ID}", "worker.slice/llm/8090"):
        assert by_pattern(other, (found,)) is None, other
    assert literal_directory(found) == stem, "else the exporter would search the whole host"


def test_every_possible_place_is_another_one() -> None:
    assert [place.parent for place in possible("worker.slice", "llm", "1")] == [
        "worker-llm-1.slice",
        "/worker/llm/1",
        "/worker.slice/llm/1",
    ]


@pytest.mark.parametrize("slice_name", ["worker.slice", r"my\x2dteam.slice", "_a@b.slice"])
def test_a_name_is_one_that_docker_takes(slice_name: str) -> None:
    name = container_name(slice_name, "llm", "8090.a")
    assert name.endswith("-llm-8090.a")
    assert re.fullmatch(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+", name)
