"""Prometheus exporter for workers that live in cgroup v2."""

__version__ = "0.1.0"
