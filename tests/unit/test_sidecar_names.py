"""Which names, commands and metadata a worker may have."""

import math
from typing import Any

import pytest

from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import Gpu, State, Status, WorkerSpec
from worker_sidecar.launch.names import check_names, check_service, port_of

GOOD = [
    ("llm", "8080"),
    ("a" * 64, "A" + "." * 63),
    ("0_a", "_x"),
    ("trainer", "main.v2"),
    ("cgroup", "cgroup"),
]
BAD = [
    ("", "1"),
    ("LLM", "1"),
    ("my-llm", "1"),
    ("llm\n", "1"),
    ("a" * 65, "1"),
    ("llm.slice", "1"),
    ("../llm", "1"),
    ("llm", ""),
    ("llm", "."),
    ("llm", ".."),
    ("llm", "a\n"),
    ("llm", "a/b"),
    ("llm", "a-b"),
    ("llm", "ä"),
    ("llm", "\u0661"),
    ("llm", "1" * 65),
    ("llm", "1" * 300),
    ("llm", "cgroup.procs"),
    ("llm", "memory.max"),
    ("llm", "8080.service"),
    ("llm", "a.slice"),
]


@pytest.mark.parametrize(("service", "instance"), GOOD)
def test_good_names(service: str, instance: str) -> None:
    check_names(service, instance)


@pytest.mark.parametrize(("service", "instance"), BAD)
def test_bad_names_are_one_line(service: str, instance: str) -> None:
    with pytest.raises(InputError) as caught:
        WorkerSpec(service, instance, ("true",))
    assert "\n" not in str(caught.value)


def test_a_service_is_checked_alone() -> None:
    check_service("llm")
    with pytest.raises(InputError, match=r"'my-llm' is no name.*a dash would nest slices"):
        check_service("my-llm")


@pytest.mark.parametrize(
    ("instance", "port"),
    [
        ("8080", 8080),
        ("1", 1),
        ("65535", 65535),
        ("65536", None),
        ("0", None),
        ("08080", None),
        ("999999", None),
        ("main", None),
        ("²", None),
        ("٣", None),
    ],
)
def test_a_plain_number_is_a_port(instance: str, port: int | None) -> None:
    assert port_of(instance) == port


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"argv": ()}, "has no command"),
        ({"argv": ("",)}, "has no command"),
        ({"argv": ("true", "a\0b")}, "contains a NUL"),
        ({"env": {"A": "a\0b"}}, "contains a NUL"),
        ({"env": {"A-B": "x"}}, "'A-B' is no name of an environment variable"),
        ({"env": {"": "x"}}, "'' is no name of an environment variable"),
        ({"grace": -1.0}, "grace is -1.0"),
        ({"grace": math.nan}, "grace is nan"),
        ({"grace": math.inf}, "grace is inf"),
        ({"oom_score_adjust": 1001}, "oom_score_adjust is 1001"),
        ({"directory": "work"}, "working directory 'work' is no absolute path"),
        ({"volumes": ("/a:/b",)}, "llm/1 has volumes, which only a container can have: give an"),
        ({"shm_size": 4096}, "llm/1 has shm_size, which only a container can have: give an image"),
        ({"image": "i", "volumes": ("/a",)}, "volume '/a': give HOST:CONTAINER or"),
        ({"image": "i", "volumes": ("/a:/x", "/b:/x")}, "two volumes are mounted on /x; keep one"),
        ({"image": "i", "shm_size": 0}, "shm_size is 0; it goes from 4096"),
    ],
)
def test_workers_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        WorkerSpec("llm", "1", **{"argv": ("true",), **options})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "x"),
        ("a.b", "x"),
        ("Model", "x"),
        ("model", ""),
        ("model", "x" * 257),
        ("model", "ä" * 129),
        ("model", "a\0"),
        ("started", "1"),
        ("health", "1"),
        ("declaration", "{}"),
    ],
)
def test_metadata_that_cannot_be(key: str, value: str) -> None:
    with pytest.raises(InputError, match="metadata"):
        WorkerSpec("llm", "1", ("true",), metadata={key: value})


def test_gpus_show_in_environment_and_attributes() -> None:
    spec = WorkerSpec("llm", "1", ("true",), env={"A": "b"}, metadata={"model": "m"})
    assert (spec.environment, spec.attributes) == ({"A": "b"}, {"model": "m"})
    gpus = (Gpu(1, "GPU-b"), Gpu(0, "GPU-a"))
    spec = WorkerSpec("llm", "1", ("true",), env={"A": "b"}, metadata={"model": "m"}, gpus=gpus)
    assert spec.environment == {"A": "b", "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}
    assert spec.attributes == {"model": "m", "gpu": "1,0"}


def test_amd_gpus_show_as_rocm_names_them() -> None:
    gpus = (Gpu(1, "GPU-1901ead3a2ecd4a6", "GPU-1901ead3a2ecd4a6"), Gpu(0, "0000:03:00.0", "2"))
    spec = WorkerSpec("llm", "1", ("true",), env={"A": "b"}, gpus=gpus)
    assert spec.environment == {"A": "b", "ROCR_VISIBLE_DEVICES": "GPU-1901ead3a2ecd4a6,2"}
    assert spec.attributes == {"gpu": "1,0"}


@pytest.mark.parametrize("state", State)
def test_what_failed_or_ended_is_not_alive(state: State) -> None:
    alive = {State.STARTING, State.RUNNING, State.RESTARTING, State.STOPPING}
    assert Status("llm", "1", "x", state).alive == (state in alive)
