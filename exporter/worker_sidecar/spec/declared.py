"""What a file declares: services, and workers with their probes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.spec.model import ServiceEntry
from worker_sidecar.spec.parameter import Parameter, Value


@dataclass(frozen=True, slots=True)
class Probe:
    """How to ask a worker whether it is ready, every `interval` seconds.

    `target` is a URL (http), host:port (tcp) or the command's first word; `argv` the command.
    A look takes `timeout` seconds at most.
    """

    kind: Literal["http", "tcp", "command"]
    target: str
    argv: tuple[str, ...]
    interval: float
    timeout: float


@dataclass(frozen=True, slots=True)
class Declared:
    """A worker that can be started, and its probe if it has one."""

    spec: WorkerSpec
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the file. `entry` is what the file says of it."""

    name: str
    entry: ServiceEntry

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What a request may choose, with types and defaults."""
        return self.entry.parameters

    @property
    def total(self) -> Limits:
        """The limits of all its workers together."""
        return self.entry.total.limits

    def typed(self, texts: Mapping[str, str]) -> Mapping[str, Value]:
        """Parameters given as text, on a command line, with their types. Raises InputError."""
        return {name: self._typed(name, text) for name, text in texts.items()}

    def check(self, parameters: Mapping[str, object]) -> Mapping[str, Value]:
        """Parameters of a request, checked strictly. Raises InputError for the first wrong one."""
        return {name: self._checked(name, value) for name, value in parameters.items()}

    def parameter(self, name: str) -> Parameter:
        """The parameter `name`. Raises InputError when the service has none of this name."""
        found = self.parameters.get(name)
        if found is None:
            has = f"it has {', '.join(self.parameters)}" if self.parameters else "it has none"
            raise InputError(f"service {self.name} has no parameter {name!r}; {has}")
        return found

    def _typed(self, name: str, text: str) -> Value:
        try:
            return self.parameter(name).parse(text)
        except InputError as error:
            raise self._about(name, error) from None

    def _checked(self, name: str, value: object) -> Value:
        try:
            return self.parameter(name).check(value)
        except InputError as error:
            raise self._about(name, error) from None

    def _about(self, name: str, error: InputError) -> InputError:
        known = name in self.parameters
        return InputError(f"parameter {name} of {self.name}: {error}") if known else error
