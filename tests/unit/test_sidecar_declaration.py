"""What is kept with a worker of its specification, and what is said of two that differ."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_sidecar.launch.declaration import (
    differences,
    encode,
    grace_of,
    image_of,
    limits_of,
)
from worker_sidecar.launch.launcher import GRACE, Gpu, Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits

FULL = Limits(
    cpu=1.5,
    cpus="0-3",
    memory=2**30,
    swap=0,
    io=(IoLimit("/var", read_bandwidth=10_000_000), IoLimit("/dev/sda", write_iops=5)),
    tasks=10,
)


def test_only_what_is_not_the_default_is_kept() -> None:
    assert encode(WorkerSpec("llm", "1", ("true",))) == '{"argv":["true"]}'


def test_the_name_and_what_was_found_for_it_are_not_kept() -> None:
    one = WorkerSpec("llm", "1", ("true",), gpu="auto")
    other = WorkerSpec("llm", "2", ("true",), gpu="auto", gpus=(Gpu(0, "GPU-a"),))
    assert encode(one) == encode(other) == '{"argv":["true"],"gpu":"auto"}'


def test_all_the_rest_is() -> None:
    spec = WorkerSpec(
        "llm",
        "1",
        ("a", "ü"),
        env={"B": "2", "A": "1"},
        limits=FULL,
        metadata={"model": "m"},
        user="alice",
        directory="/srv",
        restart=Restart.ALWAYS,
        grace=60.0,
        delegate=True,
        oom_score_adjust=-1,
        secrets={"token": "/etc/token"},
        secret_env="/etc/env",
        image="debian",
        volumes=("/a:/b:ro",),
        shm_size=2**30,
        service_limits=Limits(memory=2**31),
    )
    assert json.loads(encode(spec)) == {
        "argv": ["a", "ü"],
        "env": {"A": "1", "B": "2"},
        "limits": {
            "cpu": 1.5,
            "cpus": "0-3",
            "memory": 2**30,
            "swap": 0,
            "io": [
                {"path": "/var", "read_bandwidth": 10_000_000},
                {"path": "/dev/sda", "write_iops": 5},
            ],
            "tasks": 10,
        },
        "metadata": {"model": "m"},
        "user": "alice",
        "directory": "/srv",
        "restart": "always",
        "grace": 60.0,
        "delegate": True,
        "oom_score_adjust": -1,
        "secrets": {"token": "/etc/token"},
        "secret_env": "/etc/env",
        "image": "debian",
        "volumes": ["/a:/b:ro"],
        "shm_size": 2**30,
        "service_limits": {"memory": 2**31},
    }
    assert limits_of(encode(spec)) == FULL
    assert (grace_of(encode(spec)), image_of(encode(spec))) == (60.0, "debian")


def test_the_order_of_what_has_none_does_not_matter() -> None:
    one = WorkerSpec("llm", "1", ("true",), env={"A": "1", "B": "2"})
    other = WorkerSpec("llm", "1", ("true",), env={"B": "2", "A": "1"})
    assert encode(one) == encode(other)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "no json",
        "[]",
        "1",
        "{}",
        '{"limits": 1}',
        '{"limits": {"cpu": "x"}}',
        '{"limits": {"no_such": 1}}',
        '{"limits": {"io": 5}}',
        '{"limits": {"cpu": -1}}',
        '{"grace": "x", "image": 5}',
        '{"grace": -1}',
        '{"grace": NaN}',
        "[" * 60_000,
    ],
)
def test_what_is_not_ours_declares_nothing(text: str | None) -> None:
    assert limits_of(text) == Limits()
    assert grace_of(text) == GRACE
    assert image_of(text) is None


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    limits_of(text)
    list(differences(text, encode(WorkerSpec("llm", "1", ("true",)))))


def test_differences_are_named_one_by_one() -> None:
    before = WorkerSpec("llm", "1", ("true",), env={"A": "1"}, limits=Limits(memory=2**30))
    after = WorkerSpec("llm", "1", ("true", "x"), limits=Limits(memory=2**31, tasks=5))
    assert list(differences(encode(before), encode(after))) == [
        'argv: ["true"] -> ["true", "x"]',
        'env.A: "1" -> nothing',
        "limits.memory: 1073741824 -> 2147483648",
        "limits.tasks: nothing -> 5",
    ]
    assert list(differences(encode(before), encode(before))) == []


def test_a_containers_storage_differs() -> None:
    before = WorkerSpec("llm", "1", (), image="i", volumes=("/a:/b",))
    after = WorkerSpec("llm", "1", (), image="i", volumes=("/a:/b:ro",), shm_size=4096)
    assert list(differences(encode(before), encode(after))) == [
        "shm_size: nothing -> 4096",
        'volumes: ["/a:/b"] -> ["/a:/b:ro"]',
    ]


def test_a_total_that_is_given_no_longer_differs() -> None:
    """But a worker that was started where no file said anything is right where one says nothing."""
    unsaid = encode(WorkerSpec("llm", "1", ("true",)))
    none = encode(
        WorkerSpec("llm", "1", ("true",), service_limits=Limits(), host_limits=Limits()),
    )
    some = encode(WorkerSpec("llm", "1", ("true",), service_limits=Limits(tasks=9)))
    assert list(differences(unsaid, none)) == list(differences(none, unsaid)) == []
    assert list(differences(some, none)) == ["service_limits.tasks: 9 -> nothing"]
    assert list(differences(none, some)) == ["service_limits.tasks: nothing -> 9"]


def test_a_worker_of_others_differs_as_a_whole() -> None:
    declared = encode(WorkerSpec("llm", "1", ("true",)))
    for running in (None, "", "no json", "[" * 60_000):
        assert list(differences(running, declared)) == ["it was not started by this sidecar"]
