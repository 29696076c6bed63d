"""What the daemon is asked to make of a worker."""

import csv
import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch.docker import creation, devices
from worker_sidecar.launch.docker.place import in_slice
from worker_sidecar.launch.launcher import Gpu, Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits

GIB = 1 << 30
PLACE = in_slice("worker.slice", "llm", "8090")
GPUS = (Gpu(0, "GPU-aa"), Gpu(3, "GPU-bb"))


def recipe(files: dict[str, str] | None = None, **more: Any) -> creation.Recipe:
    spec = WorkerSpec("llm", "8090", **{"argv": (), "image": "llama:1", **more})
    return creation.Recipe(spec, "llama:1", PLACE, "worker.slice", files or {})


def test_a_plain_worker_asks_for_little() -> None:
    made = creation.body(recipe())
    assert made == {
        "Image": "llama:1",
        "Env": [],
        "Labels": {
            "worker.service": "llm",
            "worker.instance": "8090",
            "worker.slice": "worker.slice",
            "worker.declaration": '{"argv":[],"image":"llama:1"}',
        },
        "StopTimeout": 5,
        "HostConfig": {
            "CgroupParent": "worker-llm-8090.slice",
            "NetworkMode": "host",
            "RestartPolicy": {"Name": "no"},
            "OomScoreAdj": 0,
        },
    }


def test_what_is_asked_for_is_in_the_body() -> None:
    made = creation.body(
        recipe(
            {"token": "/run/s/token"},
            argv=("serve", "--port", "8090"),
            env={"A": "b c"},
            user="1000:1000",
            directory="/srv",
            grace=2.5,
            oom_score_adjust=-5,
            restart=Restart.ON_FAILURE,
            gpus=GPUS,
            secrets={"token": "/etc/token"},
        )
    )
    host = made["HostConfig"]
    assert made["Cmd"] == ["serve", "--port", "8090"]
    assert made["Env"] == ["A=b c", "CUDA_VISIBLE_DEVICES=GPU-aa,GPU-bb"]
    assert (made["User"], made["WorkingDir"], made["StopTimeout"]) == ("1000:1000", "/srv", 3)
    assert (host["OomScoreAdj"], host["RestartPolicy"]) == (-5, {"Name": "on-failure"})
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/run/s/token", "Target": "/run/secrets/token", "ReadOnly": True}
    ]
    assert host["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-aa", "GPU-bb"], "Capabilities": [["gpu"]]}
    ]


def test_a_container_opens_the_devices_of_rocm() -> None:
    gpus = (Gpu(0, "0000:03:00.0", "1"),)
    made = creation.body(recipe(gpus=gpus))
    host = made["HostConfig"]
    assert made["Env"] == ["ROCR_VISIBLE_DEVICES=1"]
    assert "DeviceRequests" not in host
    assert host["Devices"] == [
        {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
        for path in ("/dev/kfd", "/dev/dri")
    ]
    words = creation.command(recipe(gpus=gpus), "/run/docker.sock")
    assert [word for word in words if word.startswith(("--device", "--gpus", "--env"))] == [
        "--env=ROCR_VISIBLE_DEVICES=1",
        "--device=/dev/kfd",
        "--device=/dev/dri",
    ]


def test_a_user_of_a_container_may_open_the_devices_of_rocm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = {"kfd": 993, "renderD128": 993, "renderD129": 44, "card0": 5, "root": 0}
    for name in owners:
        (tmp_path / name).touch()
    files = tuple(f"{tmp_path}/{name}" for name in ("kfd", "renderD*", "root", "absent"))
    monkeypatch.setattr(creation, "_ROCM_FILES", files)
    amd = recipe(user="1000:1000", gpus=(Gpu(0, "GPU-cc", "GPU-cc"),))
    with monkeypatch.context() as host:
        host.setattr(os, "stat", lambda path: SimpleNamespace(st_gid=owners[Path(path).name]))
        made = creation.body(amd)
        words = creation.command(amd, "/run/docker.sock")
    assert made["HostConfig"]["GroupAdd"] == ["44", "993"]
    assert [word for word in words if "group-add" in word] == ["--group-add=44", "--group-add=993"]
    nvidia = recipe(user="1000:1000", gpus=GPUS)
    assert "GroupAdd" not in creation.body(nvidia)["HostConfig"]


def test_volumes_stand_before_secrets_and_make_no_directories() -> None:
    wanted = recipe(
        {"token": "/run/s/token"},
        volumes=("/srv/models:/models:ro", '/srv/a,"b:/out'),
        shm_size=GIB,
        secrets={"token": "/etc/token"},
    )
    host = creation.body(wanted)["HostConfig"]
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/srv/models", "Target": "/models", "ReadOnly": True},
        {"Type": "bind", "Source": '/srv/a,"b', "Target": "/out"},
        {
            "Type": "bind",
            "Source": "/run/s/token",
            "Target": "/run/secrets/token",
            "ReadOnly": True,
        },
    ]
    assert host["ShmSize"] == GIB
    assert "Binds" not in host, "the daemon would make a directory where there is none"
    words = creation.command(wanted, "/run/docker.sock")
    mounts = [word.removeprefix("--mount=") for word in words if word.startswith("--mount=")]
    assert list(csv.reader(mounts, strict=True)) == [
        ["type=bind", "source=/srv/models", "target=/models", "readonly"],
        ["type=bind", 'source=/srv/a,"b', "target=/out"],
        ["type=bind", "source=/run/s/token", "target=/run/secrets/token", "readonly"],
    ]
    assert f"--shm-size={GIB}" in words


def test_a_deliberate_stop_holds_although_it_restarts_always() -> None:
    made = creation.body(recipe(restart=Restart.ALWAYS))
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "unless-stopped"}


def test_limits_are_those_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creation, "node", {"/data": "/dev/sda", "/fast": "/dev/nvme0n1"}.get)
    limits = Limits(
        cpu=1.5,
        cpu_weight=50,
        cpus="0-1",
        memory=2 * GIB,
        memory_high=GIB,
        swap=GIB,
        io=(
            IoLimit("/data", read_bandwidth=1000, write_iops=7),
            IoLimit("/fast", read_bandwidth=2000),
        ),
        io_weight=200,
        tasks=64,
    )
    host = creation.body(recipe(limits=limits))["HostConfig"]
    wanted = {
        "CpuPeriod": 100_000,
        "CpuQuota": 150_000,
        "CpusetCpus": "0-1",
        "Memory": 2 * GIB,
        "MemorySwap": 3 * GIB,
        "PidsLimit": 64,
        "BlkioDeviceReadBps": [
            {"Path": "/dev/sda", "Rate": 1000},
            {"Path": "/dev/nvme0n1", "Rate": 2000},
        ],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 7}],
    }
    plain = creation.body(recipe())["HostConfig"]
    assert {key: host[key] for key in host if key not in plain} == wanted


def test_memory_alone_leaves_no_swap_and_swap_alone_is_not_dockers() -> None:
    memory = creation.body(recipe(limits=Limits(memory=GIB)))["HostConfig"]
    assert (memory["Memory"], memory["MemorySwap"]) == (GIB, GIB)
    swap = creation.body(recipe(limits=Limits(swap=GIB)))["HostConfig"]
    assert "MemorySwap" not in swap


def test_the_line_quotes_nothing_and_leaves_nothing_out() -> None:
    words = creation.command(
        recipe(argv=("sh", "-c", "echo $HOME"), env={"A": "b c"}, gpus=GPUS), "/run/docker.sock"
    )
    assert words[:4] == ("docker", "--host=unix:///run/docker.sock", "run", "--detach")
    assert words[-4:] == ("llama:1", "sh", "-c", "echo $HOME")
    for option in (
        "--pull=never",
        "--name=worker-llm-8090",
        "--cgroup-parent=worker-llm-8090.slice",
        "--network=host",
        "--restart=no",
        "--env=A=b c",
        '--gpus=driver=nvidia,"device=GPU-aa,GPU-bb"',
        "--label=worker.service=llm",
    ):
        assert option in words, option


@pytest.mark.parametrize(
    ("more", "kind", "says"),
    [
        ({"image": None, "argv": ("sh",)}, InputError, "no image"),
        ({"image": ""}, InputError, "no name of an image"),
        ({"image": "a b"}, InputError, "no name of an image"),
        ({"image": "a\nb"}, InputError, "no name of an image"),
        ({"delegate": True}, RefusedError, "delegate"),
        ({"secret_env": "/etc/env"}, RefusedError, "docker inspect"),
        (
            {"secrets": {"token": "/t"}, "volumes": ("/a:/run",)},
            InputError,
            "has secrets, which are files in /run/secrets: mount no volume on /run$",
        ),
        (
            {"secrets": {"token": "/t"}, "volumes": ("/a:/run/secrets/token",)},
            InputError,
            "mount no volume on /run/secrets/token",
        ),
    ],
)
def test_what_docker_cannot_do_is_refused(
    more: dict[str, Any], kind: type[Exception], says: str
) -> None:
    spec = WorkerSpec("llm", "8090", **{"argv": (), "image": "llama:1", **more})
    with pytest.raises(kind, match=says) as caught:
        creation.image_to_run(spec)
    assert "\n" not in str(caught.value)


def test_volumes_beside_the_secrets_are_fine() -> None:
    spec = WorkerSpec("llm", "8090", (), image="i", volumes=("/a:/run/secretsx",))
    assert creation.image_to_run(dataclasses.replace(spec, secrets={"t": "/t"})) == "i"
    elsewhere = dataclasses.replace(spec, volumes=("/a:/run/secrets",))
    assert creation.image_to_run(elsewhere) == "i"


def test_a_node_is_the_whole_disk(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    disk = tmp_path / "devices/pci/block/cciss!c0d0"
    (disk / "p1").mkdir(parents=True)
    (disk / "dev").write_text("104:0\n")
    (disk / "p1/dev").write_text(f"{os.major(device)}:{os.minor(device)}\n")
    (disk / "p1/partition").write_text("1\n")
    links = tmp_path / "dev/block"
    links.mkdir(parents=True)
    (links / f"{os.major(device)}:{os.minor(device)}").symlink_to(disk / "p1")
    (links / "104:0").symlink_to(disk)
    assert devices.node(str(tmp_path), str(tmp_path)) == "/dev/cciss/c0d0"
