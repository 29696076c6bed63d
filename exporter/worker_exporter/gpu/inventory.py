"""All devices read once, for who asks now and then and can wait."""

from collections.abc import Collection

from worker_exporter.gpu.device import Reading
from worker_exporter.gpu.process import Helper, HelperError

_MOMENT = 0.2
"""Seconds for a killed process to go, where it can."""


class NoDriverError(Exception):
    """There is no driver of GPUs, and no device; the text is what NVML says of it."""


class DriverError(Exception):
    """A driver failed; the text says how. `reading` is what the other one says."""

    def __init__(self, text: str, reading: Reading) -> None:
        super().__init__(text)
        self.reading = reading


class NoAnswerError(Exception):
    """The drivers did not answer in time. The process that asked was left behind."""


def inventory(patience: float, sysfs: str = "/sys", held: Collection[int] = ()) -> Reading:
    """What the drivers say of all devices, within `patience` seconds.

    The process that asks keeps the descriptors `held` open until it ends, which may be much later
    if it hangs in a driver. Raises NoDriverError, DriverError, NoAnswerError, and OSError if the
    process cannot be started.
    """
    helper = Helper(sysfs, held)
    try:
        helper.ask()
        answer = helper.answer(patience)
    except HelperError as error:
        raise DriverError(f"asking GPU drivers failed: {error}", Reading()) from None
    finally:
        helper.kill()
        helper.has_ended(_MOMENT)
    if answer is None:
        raise NoAnswerError
    if answer.failed:
        raise DriverError(f"NVIDIA's driver cannot be used: {answer.failed}", answer.reading)
    if not answer.reading.devices and answer.absent:
        raise NoDriverError(answer.absent)
    return answer.reading
