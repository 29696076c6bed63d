"""Whose a slice is, and what is said to those it does not belong to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sidecar.errors import InputError, PermissionDeniedError
from worker_sidecar.ownership import HOST_OWNERS, OURSELVES, Ownership, check_slice

OWNERSHIP = Ownership(("worker.slice",), {"pact.slice": "pact", "workload.slice": "lattice"})

_STEMS = st.lists(st.sampled_from(["a", "b", "work", "load"]), min_size=1, max_size=4).map("-".join)
_SLICES = _STEMS.map(lambda stem: f"{stem}.slice")


@pytest.mark.parametrize("name", ["worker.slice", "worker-llm.slice", "worker-llm-8080.slice"])
def test_our_own_subtree_is_ours(name: str) -> None:
    OWNERSHIP.check(name)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("workload.slice", "lattice"),
        ("workload-x.slice", "lattice"),
        ("pact-a-b.slice", "pact"),
        ("system.slice", "systemd"),
        ("system-getty.slice", "systemd"),
        ("user-1000.slice", "systemd-logind"),
        ("work.slice", None),
        ("workers.slice", None),
        ("other-worker.slice", None),
    ],
)
def test_the_rest_is_refused_with_its_owner(name: str, owner: str | None) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        OWNERSHIP.check(name)
    assert caught.value.owner == owner
    whose = f"belongs to {owner}" if owner else "is not one of ours"
    assert str(caught.value) == (
        f"{name} {whose}; worker-sidecar writes below worker.slice only"
        ' (override: --emergency --reason "…")'
    )


@pytest.mark.parametrize(
    ("place", "owner"),
    [
        ("workload.slice/workload-x.slice", "lattice"),
        ("/workload.slice/anything/below", "lattice"),
        ("workload.slice-extra", None),
        ("workload.slice-extra/x", None),
        ("workload", None),
        ("worker.slice/worker-llm.slice/worker-llm@8080.service", OURSELVES),
        ("", None),
    ],
)
def test_paths_are_compared_by_component(place: str, owner: str | None) -> None:
    assert OWNERSHIP.owner_of(place) == owner


def test_the_nearest_name_decides() -> None:
    ownership = Ownership(("work-load.slice",), {"work.slice": "lattice", "work-load-x.slice": "x"})
    ownership.check("work-load.slice")
    ownership.check("work-load-y.slice")
    assert ownership.owner_of("work-other.slice") == "lattice"
    assert ownership.owner_of("work-load-x-y.slice") == "x"


@given(
    wanted=_SLICES,
    own=st.lists(_SLICES, min_size=1, max_size=3),
    owners=st.dictionaries(_SLICES, st.sampled_from(["p", "q"]), max_size=4),
)
def test_owners_are_found_by_walking_up(
    wanted: str, own: list[str], owners: dict[str, str]
) -> None:
    expected = None
    stem = wanted.removesuffix(".slice")
    while stem and expected is None:
        name = f"{stem}.slice"
        expected = OURSELVES if name in own else owners.get(name, HOST_OWNERS.get(name))
        stem = stem.rpartition("-")[0]
    assert Ownership(tuple(own), owners).owner_of(wanted) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("", "worker", ".slice", "-.slice", "-worker.slice", "worker-.slice", "a--b.slice"),
        *("workload.slice-extra", "a/b.slice", "../x.slice", "worker.slice\n", "wörker.slice"),
        *("a b.slice", "worker.service", f"{'a' * 95}.slice"),
    ],
)
def test_what_is_no_slice_is_bad_input(name: str) -> None:
    with pytest.raises(InputError, match="is no slice; it must look like worker"):
        OWNERSHIP.check(name)


@pytest.mark.parametrize("name", ["worker.slice", r"my\x2dteam.slice", f"{'a' * 94}.slice"])
def test_slices(name: str) -> None:
    check_slice(name)
