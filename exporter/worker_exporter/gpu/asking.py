"""The drivers, asked beside a scrape by a process that may hang in the exporter's stead."""

import time

from worker_exporter import log
from worker_exporter.backoff import Backoff
from worker_exporter.gpu import drivers
from worker_exporter.gpu.device import Reading
from worker_exporter.gpu.process import Helper, HelperError
from worker_exporter.gpu.troubles import Troubles
from worker_exporter.gpu.wire import Answer

_LONGEST = 10.0
"""Seconds without an answer until the process is given up."""

_LONGEST_START = 30.0
"""The same for its first answer: without a persistence daemon each GPU wakes up first."""

_MOMENT = 0.1
"""Seconds for a killed process to go, or for an answer that hardly comes in time."""

_ADVICE = "GPU metrics are left out; see dmesg, and what nvidia-smi or amd-smi says"


class Gpus:
    """All devices of the host. Nothing is started before a driver is there.

    Not to be used by two threads at once, and by the one that asked first as long as it lives: the
    kernel ends the process that asks with the thread that started it.
    """

    def __init__(self, procfs: str, sysfs: str, patience: float) -> None:
        """`patience`: seconds that reading() waits at most after ask(), unless that says others."""
        self._procfs = procfs
        self._sysfs = sysfs
        self._patience = patience
        self._wanted_within = patience
        self._helper: Helper | None = None
        self._killed: Helper | None = None
        self._backoff = Backoff(time.monotonic)
        self._is_hung = False
        self._in_vain = Backoff(time.monotonic)
        self._is_asked = False
        self._reading: Reading | None = None
        self._failures = Troubles()
        self._faults = Troubles()

    def ask(self, patience: float | None = None) -> None:
        """Begin to read all devices; returns at once. reading() will wait for `patience` seconds
        from now at most, unless given those of this object.
        """
        self._wanted_within = self._patience if patience is None else patience
        self._is_asked = False
        self._reading = None
        if self._killed is not None and self._killed.has_ended():
            self._killed = None
        if self._helper is not None:
            self._settle(self._helper)
        if self._helper is None and self._may_start():
            self._start()
        if self._helper is not None and self._helper.asked_at is None:
            self._ask(self._helper)

    def reading(self) -> Reading | None:
        """What the drivers said since ask(); waits for it. None: nothing in time; without any
        driver an empty Reading.
        """
        if self._is_asked and self._helper is not None:
            self._is_asked = False
            self._wait(self._helper)
        return self._reading

    def close(self) -> None:
        """End the process, without waiting for one that cannot be ended."""
        self._is_asked = False
        self._reading = None
        if self._helper is not None:
            self._kill(self._helper)
        if self._killed is not None and self._killed.has_ended(_MOMENT):
            self._killed = None

    def _settle(self, helper: Helper) -> None:
        """Throw an answer away that came too late, and give up who never answers."""
        if helper.asked_at is None:
            return
        try:
            late = helper.answer(0.0)
        except HelperError as error:
            self._fail(helper, str(error))
            return
        longest = _LONGEST if helper.has_answered else _LONGEST_START
        if late is not None:
            self._has_answered()
        elif time.monotonic() > helper.asked_at + longest:
            self._fail(helper, f"no answer for {longest:g} s")

    def _may_start(self) -> bool:
        if not drivers.is_any_there(self._procfs, self._sysfs):
            self._reading = Reading()
            self._failures.end()
            self._faults.end()
            return False
        if not self._backoff.is_over:
            return False
        if self._killed is not None:
            self._failures.begin(
                f"GPU drivers: the process that asks hangs and cannot be killed; {_ADVICE}"
            )
        return self._killed is None

    def _start(self) -> None:
        try:
            self._helper = Helper(self._sysfs)
        except OSError as error:
            self._backoff.failed()
            self._failures.begin(
                f"GPU drivers: no process can be started to ask them: {error.strerror}"
            )

    def _ask(self, helper: Helper) -> None:
        try:
            helper.ask()
        except HelperError as error:
            self._fail(helper, str(error))
        else:
            self._is_asked = True

    def _wait(self, helper: Helper) -> None:
        assert helper.asked_at is not None
        is_patient = self._in_vain.is_over
        try:
            answer = helper.answer(self._longest_wait(helper.asked_at))
        except HelperError as error:
            self._fail(helper, str(error))
            return
        if answer is not None:
            self._has_answered()
            self._in_vain.succeeded()
            self._take(answer)
            return
        if is_patient:
            self._in_vain.failed()
        self._is_hung = True
        if helper.has_answered:
            self._failures.begin(
                f"GPU drivers: no answer within {self._wanted_within:g} s; {_ADVICE}"
            )
        else:
            log.debug("GPU drivers take their time to start", patience=self._wanted_within)

    def _longest_wait(self, asked_at: float) -> float:
        """In seconds: nothing while nothing comes at all, and little for a while after a wait in
        vain, for a driver that is always too late must not hold every scrape.
        """
        if self._is_hung:
            return 0.0
        wanted = asked_at + self._wanted_within - time.monotonic()
        return max(0.0, wanted if self._in_vain.is_over else min(wanted, _MOMENT))

    def _take(self, answer: Answer) -> None:
        faults = answer.reading.faults
        if answer.failed:
            faults = (f"NVIDIA's driver cannot be used: {answer.failed}; see nvidia-smi", *faults)
        self._reading = Reading(answer.reading.devices, faults)
        for fault in faults:
            self._faults.begin(fault)
        self._faults.end(faults)
        if self._failures.end():
            log.info("GPU drivers answer again")

    def _has_answered(self) -> None:
        self._is_hung = False
        self._backoff.succeeded()

    def _fail(self, helper: Helper, why: str) -> None:
        self._kill(helper)
        self._backoff.failed()
        self._failures.begin(f"GPU drivers: {why}; {_ADVICE}")

    def _kill(self, helper: Helper) -> None:
        helper.kill()
        self._killed, self._helper = helper, None
