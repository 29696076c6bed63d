"""Reading cgroup v2: the mount, which workers exist, their files."""
