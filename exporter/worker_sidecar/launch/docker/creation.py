"""A container to be made: what the Engine API is given, and the same as a `docker run` line."""

import glob
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.docker.container import DECLARATION, INSTANCE, SERVICE, SLICE
from worker_sidecar.launch.docker.daemon import Json
from worker_sidecar.launch.docker.devices import node
from worker_sidecar.launch.docker.place import Place, container_name
from worker_sidecar.launch.launcher import Restart, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.storage import Volume, overlap, parse_volume

SECRETS = "/run/secrets"
"""Where a container finds its secrets, a file for each, as with Docker's own."""

_CPU_PERIOD = 100_000
"""Microseconds, the kernel's default period of cpu.max."""

_ROCM_NODES = ("/dev/kfd", "/dev/dri")
"""What ROCm opens; Docker gives a container all devices in a directory."""

_ROCM_FILES = ("/dev/kfd", "/dev/dri/renderD*")
"""Those of them that a program needs; their groups, mostly `render`, may open them."""

_RESTART = {
    Restart.NO: "no",
    Restart.ON_FAILURE: "on-failure",
    # "always" would start it at the daemon's next start although somebody stopped it
    Restart.ALWAYS: "unless-stopped",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A container for `spec` with the image `image`, in `place`, of a worker below `slice_name`.

    `secrets` maps a name to the file that the container sees as /run/secrets/NAME.
    """

    spec: WorkerSpec
    image: str
    place: Place
    slice_name: str
    secrets: Mapping[str, str]

    @property
    def name(self) -> str:
        """The container's name."""
        return container_name(self.slice_name, self.spec.service, self.spec.instance)

    @property
    def labels(self) -> Mapping[str, str]:
        """What makes it a worker of ours, see container_of()."""
        return {
            SERVICE: self.spec.service,
            INSTANCE: self.spec.instance,
            SLICE: self.slice_name,
            DECLARATION: encode(self.spec),
        }


def image_to_run(spec: WorkerSpec) -> str:
    """The image of `spec`. Raises InputError without one, RefusedError for what Docker cannot do
    or must not be given.
    """
    if spec.image is None:
        raise InputError(f"{spec.name} has no image, which Docker needs")
    if not spec.image or not spec.image.isprintable() or " " in spec.image:
        raise InputError(f"the image {spec.image!r} of {spec.name} is no name of an image")
    if spec.delegate:
        raise RefusedError(f"{spec.name}: Docker delegates no cgroup; leave delegate away")
    if spec.secret_env is not None:
        raise RefusedError(
            f"{spec.name}: secret_env would show in docker inspect; "
            f"use secrets, which are files in {SECRETS}"
        )
    for volume in map(parse_volume, spec.volumes):
        if spec.secrets and overlap(volume.target, SECRETS):
            raise InputError(
                f"{spec.name} has secrets, which are files in {SECRETS}: "
                f"mount no volume on {volume.target}"
            )
    return spec.image


def own_limits(limits: Limits) -> Limits:
    """Those of `limits` that Docker can put on the container itself.

    The rest is on its slice or directory alone, as are the weights: in there the container has
    nobody to share with.
    """
    return Limits(
        cpu=limits.cpu,
        cpus=limits.cpus,
        memory=limits.memory,
        swap=limits.swap_max if limits.memory is not None else None,
        io=limits.io,
        tasks=limits.tasks,
    )


def body(recipe: Recipe) -> Json:
    """The body of POST /containers/create.

    The host's network: a worker's port is the host's, whatever launched it.
    """
    spec = recipe.spec
    made: Json = {
        "Image": recipe.image,
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Labels": dict(recipe.labels),
        "StopTimeout": math.ceil(spec.grace),
        "HostConfig": {
            "CgroupParent": recipe.place.parent,
            "NetworkMode": "host",
            "RestartPolicy": {"Name": _RESTART[spec.restart]},
            "OomScoreAdj": spec.oom_score_adjust,
            **_limits(own_limits(spec.limits)),
            **_storage(recipe),
            **_gpus(spec),
        },
    }
    optional = {"Cmd": list(spec.argv), "User": spec.user, "WorkingDir": spec.directory}
    return {**made, **{key: value for key, value in optional.items() if value}}


def command(recipe: Recipe, socket: str) -> Sequence[str]:
    """The `docker run` line that makes and starts the same container."""
    spec = recipe.spec
    options = {
        "--name": [recipe.name],
        "--cgroup-parent": [recipe.place.parent],
        "--network": ["host"],
        "--restart": [_RESTART[spec.restart]],
        "--stop-timeout": [str(math.ceil(spec.grace))],
        "--oom-score-adj": [str(spec.oom_score_adjust)],
        "--label": [f"{name}={value}" for name, value in recipe.labels.items()],
        "--env": [f"{name}={value}" for name, value in spec.environment.items()],
        "--user": [spec.user] if spec.user else [],
        "--workdir": [spec.directory] if spec.directory else [],
        **_limit_options(own_limits(spec.limits)),
        "--mount": [_mount_option(volume) for volume in _volumes(recipe)],
        "--shm-size": [str(spec.shm_size)] if spec.shm_size else [],
        "--gpus": [f'driver=nvidia,"device={",".join(uuids)}"'] if (uuids := _nvidia(spec)) else [],
        "--device": _rocm_nodes(spec),
        "--group-add": _rocm_groups(spec),
    }
    return (
        *("docker", f"--host=unix://{socket}", "run", "--detach", "--pull=never"),
        *(f"{option}={value}" for option, values in options.items() for value in values),
        recipe.image,
        *spec.argv,
    )


def _limits(limits: Limits) -> Json:
    """`limits` as fields of HostConfig."""
    found = {
        "CpuPeriod": None if limits.cpu is None else _CPU_PERIOD,
        "CpuQuota": None if limits.cpu is None else _quota(limits.cpu),
        "CpusetCpus": limits.cpus,
        "Memory": limits.memory,
        "MemorySwap": _memory_and_swap(limits),
        "PidsLimit": limits.tasks,
    }
    devices = {
        f"BlkioDevice{name}": [{"Path": path, "Rate": rate} for path, rate in rates]
        for name, _, rates in _rates(limits.io)
    }
    return {key: value for key, value in {**found, **devices}.items() if value}


def _limit_options(limits: Limits) -> Mapping[str, Sequence[str]]:
    """`limits` as options of docker run."""
    single = {
        "--cpu-period": None if limits.cpu is None else _CPU_PERIOD,
        "--cpu-quota": None if limits.cpu is None else _quota(limits.cpu),
        "--cpuset-cpus": limits.cpus,
        "--memory": limits.memory,
        "--memory-swap": _memory_and_swap(limits),
        "--pids-limit": limits.tasks,
    }
    return {
        **{option: [str(value)] for option, value in single.items() if value is not None},
        **{
            f"--device-{option}": [f"{path}:{rate}" for path, rate in rates]
            for _, option, rates in _rates(limits.io)
        },
    }


def _quota(cpu: float) -> int:
    return round(cpu * _CPU_PERIOD)


def _memory_and_swap(limits: Limits) -> int | None:
    """Docker's limit of swap is one of both together."""
    return None if limits.memory is None else limits.memory + (limits.swap_max or 0)


def _rates(limits: Sequence[IoLimit]) -> Sequence[tuple[str, str, Sequence[tuple[str, int]]]]:
    """For each kind of bound: its name in the API, in docker run, and the bound of each device."""
    named = [(node(limit.path), limit) for limit in limits]
    kinds = {
        ("ReadBps", "read-bps"): [(path, limit.read_bandwidth) for path, limit in named],
        ("WriteBps", "write-bps"): [(path, limit.write_bandwidth) for path, limit in named],
        ("ReadIOps", "read-iops"): [(path, limit.read_iops) for path, limit in named],
        ("WriteIOps", "write-iops"): [(path, limit.write_iops) for path, limit in named],
    }
    return [
        (name, option, [(path, rate) for path, rate in rates if rate is not None])
        for (name, option), rates in kinds.items()
    ]


def _volumes(recipe: Recipe) -> Sequence[Volume]:
    """All that the container sees of the host."""
    secrets = [
        Volume(source, f"{SECRETS}/{name}", read_only=True)
        for name, source in recipe.secrets.items()
    ]
    return [*map(parse_volume, recipe.spec.volumes), *secrets]


def _storage(recipe: Recipe) -> Json:
    """Fields of HostConfig. Mounts, unlike Binds, make no directory of root's on the host where
    there is none: the daemon refuses it.
    """
    found = {"Mounts": list(map(_mount, _volumes(recipe))), "ShmSize": recipe.spec.shm_size}
    return {key: value for key, value in found.items() if value}


def _mount(volume: Volume) -> Json:
    made: Json = {"Type": "bind", "Source": volume.source, "Target": volume.target}
    return {**made, "ReadOnly": True} if volume.read_only else made


def _mount_option(volume: Volume) -> str:
    """`volume` for docker run --mount, which reads a line of CSV."""
    fields = ["type=bind", f"source={volume.source}", f"target={volume.target}"]
    return ",".join(map(_quoted, [*fields, *(["readonly"] if volume.read_only else [])]))


def _quoted(field: str) -> str:
    if "," not in field and '"' not in field:
        return field
    doubled = field.replace('"', '""')
    return f'"{doubled}"'


def _gpus(spec: WorkerSpec) -> Json:
    """NVIDIA's by their UUIDs. Of AMD's it can open all, and ROCR_VISIBLE_DEVICES says which: that
    may go by ROCm's numbers, and ROCm counts what it can open.
    """
    found: Json = {}
    if uuids := _nvidia(spec):
        request = {"Driver": "nvidia", "DeviceIDs": uuids, "Capabilities": [["gpu"]]}
        found["DeviceRequests"] = [request]
    if nodes := _rocm_nodes(spec):
        found["Devices"] = [
            {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
            for path in nodes
        ]
    if groups := _rocm_groups(spec):
        found["GroupAdd"] = groups
    return found


def _nvidia(spec: WorkerSpec) -> list[str]:
    return [gpu.uuid for gpu in spec.gpus if not gpu.is_amd]


def _rocm_nodes(spec: WorkerSpec) -> list[str]:
    return list(_ROCM_NODES) if any(gpu.is_amd for gpu in spec.gpus) else []


def _rocm_groups(spec: WorkerSpec) -> list[str]:
    """The groups of the devices as numbers: a user of the image is in none of the host's."""
    if not _rocm_nodes(spec):
        return []
    files = (path for pattern in _ROCM_FILES for path in glob.glob(pattern))
    groups = {os.stat(path).st_gid for path in files}
    return [str(group) for group in sorted(groups) if group != 0]
