"""What both runs with Docker check, each with another of the daemon's cgroup drivers."""

CHECKS = (
    "driver_is_detected",
    "errors_leave_nothing",
    "worker_starts",
    "limits_are_on_both",
    "metadata_is_there",
    "exporter_sees_it",
    "second_start_is_refused",
    "output_is_read",
    "secrets_are_files",
    "volumes_are_mounted",
    "pasted_lines_do_the_same",
    "lost_limits_are_seen",
    "metadata_outlives_a_restart",
    "crashed_worker_comes_back",
    "stop_leaves_nothing",
    "kill_leaves_nothing",
    "stopped_by_hand_stays_stopped",
    "ten_starts_at_once",
    "want_of_memory_is_told",
    "failure_is_told",
    "killed_start_is_cleared",
    "killed_stop_is_finished",
    "parent_for_compose",
    "down_leaves_nothing",
)
OPTIONS = ("systemd.unified_cgroup_hierarchy=1",)
