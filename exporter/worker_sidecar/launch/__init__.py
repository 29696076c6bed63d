"""Ways to start a worker in a cgroup of its own."""
