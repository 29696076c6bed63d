"""Launches workers so that each has a cgroup of its own."""
