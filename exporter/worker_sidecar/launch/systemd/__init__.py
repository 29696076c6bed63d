"""Workers as transient units of systemd, made by `systemd-run`."""

from worker_sidecar.launch.systemd.launcher import SystemdLauncher, unavailable

__all__ = ["SystemdLauncher", "unavailable"]
