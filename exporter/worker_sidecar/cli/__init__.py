"""The command line `worker-sidecar`: one file for each group of commands."""

from worker_sidecar.cli.program import main

__all__ = ["main"]
