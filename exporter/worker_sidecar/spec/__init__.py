"""workers.yaml: which services there are on a host, and which workers of them should run."""

from worker_sidecar.spec.config import EMPTY, Config
from worker_sidecar.spec.declared import Declared, Probe, Service
from worker_sidecar.spec.load import load
from worker_sidecar.spec.parameter import Parameter, Value

__all__ = ["EMPTY", "Config", "Declared", "Parameter", "Probe", "Service", "Value", "load"]
