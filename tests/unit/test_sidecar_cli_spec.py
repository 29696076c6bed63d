"""From the flags of `run` to a specification."""

from typing import Any

import pytest

from worker_sidecar.cli.spec import Flags, changed
from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits

BARE = WorkerSpec("llm", "8080", ("serve",))


def test_no_flags_change_nothing() -> None:
    spec = WorkerSpec(
        "llm",
        "8080",
        ("serve",),
        env={"A": "1"},
        limits=Limits(cpu=2, io=(IoLimit("/a", 1),)),
        metadata={"model": "m"},
        restart=Restart.ALWAYS,
        delegate=True,
        secrets={"s": "/f"},
    )
    assert changed(spec, Flags()) == spec


def test_every_flag_has_its_field() -> None:
    flags = Flags(
        cpu="150%",
        cpu_weight=50,
        cpus="0-1",
        memory="300M",
        memory_high="200M",
        swap="1G",
        tasks=7,
        io_weight=20,
        io_read_bandwidth=("/a=b=10M", "/c=1K"),
        io_write_bandwidth=("/c=2K",),
        io_read_iops=("/c=3",),
        io_write_iops=("/c=4",),
        user="nobody",
        directory="/tmp",
        env=("A=b=c", "B="),
        secret=("token=/f",),
        secret_env="/g",
        restart="on-failure",
        grace=0.0,
        delegate=True,
        oom_score_adjust=-5,
        image="busybox",
        volume=("/a:/b", "/c:/d:ro"),
        shm_size="1G",
        gpu="auto",
        model="m",
        port=8080,
        metadata=("team=a",),
    )
    assert changed(BARE, flags) == WorkerSpec(
        "llm",
        "8080",
        ("serve",),
        env={"A": "b=c", "B": ""},
        limits=Limits(
            cpu=1.5,
            cpu_weight=50,
            cpus="0-1",
            memory=300 * 1024**2,
            memory_high=200 * 1024**2,
            swap=1024**3,
            io=(IoLimit("/a=b", 10_000_000), IoLimit("/c", 1000, 2000, 3, 4)),
            io_weight=20,
            tasks=7,
        ),
        metadata={"team": "a", "model": "m", "port": "8080"},
        user="nobody",
        directory="/tmp",
        restart=Restart.ON_FAILURE,
        grace=0.0,
        delegate=True,
        oom_score_adjust=-5,
        secrets={"token": "/f"},
        secret_env="/g",
        image="busybox",
        volumes=("/a:/b", "/c:/d:ro"),
        shm_size=1024**3,
        gpu="auto",
    )


def test_flags_go_before_the_file() -> None:
    spec = WorkerSpec(
        "llm",
        "8080",
        ("serve",),
        env={"A": "1", "B": "2"},
        limits=Limits(cpu=2, memory=2**20, io=(IoLimit("/a", 1, 2),)),
    )
    new = changed(spec, Flags(memory="2M", env=("B=3",), io_read_bandwidth=("/a=5",)))
    assert new.env == {"A": "1", "B": "3"}
    assert new.limits == Limits(cpu=2, memory=2**21, io=(IoLimit("/a", 5, 2),))


def test_a_volume_takes_the_place_of_the_files() -> None:
    spec = WorkerSpec("llm", "8080", (), image="i", volumes=("/a:/x:ro", "/b:/y"), shm_size=4096)
    new = changed(spec, Flags(volume=("/c:/x",)))
    assert (new.volumes, new.shm_size) == (("/b:/y", "/c:/x"), 4096)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"memory": "-1"}, "limit memory '-1': give bytes"),
        ({"memory": "1"}, "limit memory is 1; it goes from 4096"),
        ({"memory": "9999999P"}, "limit memory is"),
        ({"cpu": "0"}, "limit cpu is 0"),
        ({"cpu": "nan"}, "limit cpu 'nan'"),
        ({"cpus": "3-1"}, "limit cpus '3-1'"),
        ({"tasks": 0}, "limit tasks is 0"),
        ({"cpu_weight": 10001}, "limit cpu_weight is 10001"),
        ({"io_read_bandwidth": ("/a",)}, "--io-read-bandwidth '/a': give PATH=NUMBER"),
        ({"io_write_iops": ("/a=1.5",)}, "limit iops '1.5'"),
        ({"io_write_iops": ("/a=-1",)}, "limit iops '-1'"),
        ({"io_read_iops": ("/a=1", "/a=2")}, "--io-read-iops: /a is there twice"),
        ({"io_read_iops": ("a=1",)}, "'a' is no absolute path"),
        ({"env": ("A",)}, "--env 'A': give NAME=VALUE"),
        ({"env": ("1A=b",)}, "'1A' is no name of an environment variable"),
        ({"secret": ("=f",)}, "--secret '=f': give NAME=FILE"),
        ({"metadata": ("Team=a",)}, "metadata key 'Team' is no name"),
        ({"metadata": ("health=1",)}, "metadata key 'health' is no name"),
        ({"grace": -1.0}, "grace is -1.0"),
        ({"grace": float("nan")}, "grace is nan"),
        ({"directory": "tmp"}, "'tmp' is no absolute path"),
        ({"volume": ("/a:/b",)}, "llm/8080 has volumes, which only a container can have"),
        ({"image": "i", "volume": ("a:/b",)}, "volume 'a:/b': 'a' is no plain absolute path"),
        ({"image": "i", "volume": ("/a:/x", "/b:/x")}, "two volumes are mounted on /x"),
        ({"shm_size": "1G"}, "llm/8080 has shm_size, which only a container can have"),
        ({"image": "i", "shm_size": "big"}, "shm_size 'big': give bytes, as in 512M or 8G"),
        ({"oom_score_adjust": 1001}, "oom_score_adjust is 1001"),
    ],
)
def test_what_cannot_be_is_one_line(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        changed(BARE, Flags(**flags))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
