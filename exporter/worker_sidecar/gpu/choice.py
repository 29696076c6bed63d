"""Which GPUs a worker gets."""

from collections import Counter
from collections.abc import Collection, Sequence

from worker_sidecar.errors import InputError
from worker_sidecar.gpu.inventory import PATIENCE, GpuState, NoDriverError, inventory
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
        known = inventory(patience)
    except NoDriverError as error:
        raise InputError(
            f"gpu {wanted} was asked for, but {error}; install it, or leave gpu out"
        ) from None
    if not known:
        raise InputError(f"gpu {wanted} was asked for, but the driver has no GPU; leave gpu out")
    found = [_named(name, known) for name in names] if wanted != AUTO else [_best(known, taken)]
    if len({gpu.uuid for gpu in found}) < len(found):
        raise InputError(f"gpu {wanted} names one GPU twice")
    return tuple(Gpu(gpu.index, gpu.uuid) for gpu in found)


def _best(known: Sequence[GpuState], taken: Collection[int]) -> GpuState:
    most = max(gpu.free_bytes or 0 for gpu in known)
    workers = Counter(taken)
    alike = [gpu for gpu in known if (gpu.free_bytes or 0) >= _ALIKE * most]
    return min(alike, key=lambda gpu: (workers[gpu.index], -(gpu.free_bytes or 0), gpu.index))


def _named(name: str, known: Sequence[GpuState]) -> GpuState:
    if not name.isdigit():
        for gpu in known:
            if gpu.uuid == name:
                return gpu
        raise InputError(f"there is no GPU {name}; there are {_listed(known)}")
    same = [gpu for gpu in known if gpu.index == int(name)]
    if not same:
        raise InputError(f"there is no GPU {name}; there are {_listed(known)}")
    if same[0].is_mig:
        raise InputError(f"GPU {name} is divided by MIG; name a part of it: {_listed(same)}")
    return same[0]


def _listed(known: Sequence[GpuState]) -> str:
    return ", ".join(gpu.uuid if gpu.is_mig else f"{gpu.index} ({gpu.uuid})" for gpu in known)
