"""Which GPUs a worker gets."""

from collections import Counter
from collections.abc import Collection, Sequence

from worker_sidecar.errors import InputError
from worker_sidecar.gpu.inventory import PATIENCE, DriverError, GpuState, NoDriverError, inventory
from worker_sidecar.gpu.wanted import AUTO, check_wanted
from worker_sidecar.launch.launcher import Gpu

_ALIKE = 0.9
"""GPUs with nine tenths of the most free memory count as having as much."""


def choose(wanted: str, taken: Collection[int] = (), patience: float = PATIENCE) -> tuple[Gpu, ...]:
    """The GPUs that `wanted` names: "auto", numbers or UUIDs, with commas between several.

    "auto" is the GPU with most free memory. A worker takes its memory some time after its start,
    so of GPUs with about as much the one wins that the fewest living workers were given: `taken`
    are the numbers of their GPUs, one for each worker.

    Raises InputError for a GPU that is not there, InputOutputError when the driver fails.
    """
    names = check_wanted(wanted)
    try:
        known = _known(names, patience)
    except NoDriverError as error:
        raise InputError(
            f"gpu {wanted} was asked for, but {error}; install it, or leave gpu out"
        ) from None
    if not known:
        raise InputError(f"gpu {wanted} was asked for, but the driver has no GPU; leave gpu out")
    found = [_named(name, known) for name in names] if wanted != AUTO else [_best(known, taken)]
    if len({gpu.uuid for gpu in found}) < len(found):
        raise InputError(f"gpu {wanted} names one GPU twice")
    if len({gpu.vendor for gpu in found}) > 1:
        raise InputError(
            f"gpu {wanted} names GPUs of NVIDIA and of AMD; a program can use one kind"
        )
    return tuple(Gpu(gpu.index, gpu.uuid, gpu.rocr_name) for gpu in found)


def _known(names: Collection[str], patience: float) -> Sequence[GpuState]:
    """The GPUs of this host. While NVIDIA's driver fails, only a UUID can mean one of AMD's."""
    try:
        return inventory(patience)
    except DriverError as error:
        if names and {gpu.uuid for gpu in error.others}.issuperset(names):
            return error.others
        raise


def _best(known: Sequence[GpuState], taken: Collection[int]) -> GpuState:
    usable = [gpu for gpu in known if gpu.is_usable]
    if not usable:
        raise _unusable(known[0])
    most = max(gpu.free_bytes or 0 for gpu in usable)
    workers = Counter(taken)
    alike = [gpu for gpu in usable if (gpu.free_bytes or 0) >= _ALIKE * most]
    return min(alike, key=lambda gpu: (workers[gpu.index], -(gpu.free_bytes or 0), gpu.index))


def _named(name: str, known: Sequence[GpuState]) -> GpuState:
    if name.isdigit():
        return _numbered(name, known)
    for gpu in known:
        if gpu.uuid == name:
            return _checked(gpu)
    raise InputError(f"there is no GPU {name}; there are {_listed(known)}")


def _numbered(name: str, known: Sequence[GpuState]) -> GpuState:
    same = [gpu for gpu in known if gpu.index == int(name)]
    if not same:
        raise InputError(f"there is no GPU {name}; there are {_listed(known)}")
    if len({gpu.vendor for gpu in same}) > 1:
        uuids = ", ".join(gpu.uuid for gpu in same)
        raise InputError(f"GPU {name} may be NVIDIA's or AMD's; name it by its UUID: {uuids}")
    if same[0].is_mig:
        raise InputError(f"GPU {name} is divided by MIG; name a part of it: {_listed(same)}")
    return _checked(same[0])


def _checked(gpu: GpuState) -> GpuState:
    if not gpu.is_usable:
        raise _unusable(gpu)
    return gpu


def _unusable(gpu: GpuState) -> InputError:
    return InputError(
        f"ROCm cannot use GPU {gpu.index} ({gpu.uuid}): /sys/class/kfd has no such GPU"
    )


def _listed(known: Sequence[GpuState]) -> str:
    return ", ".join(gpu.uuid if gpu.is_mig else f"{gpu.index} ({gpu.uuid})" for gpu in known)
