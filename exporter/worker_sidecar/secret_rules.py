"""What has to be so that a worker's secrets stay secret, whoever asked for the worker."""

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.spec import secret, users


def check_secrets(spec: WorkerSpec) -> None:
    """Raises RefusedError for a file of secrets that others can read, and for a worker with
    secrets without a uid of its own: what has the same uid could read them from its memory.
    """
    files = {f"secret {name}": path for name, path in spec.secrets.items()}
    if spec.secret_env is not None:
        files["secret_env"] = spec.secret_env
    if not files:
        return
    if spec.user is None or users.uid_of(spec.user) == 0:
        raise RefusedError(
            f"{spec.name} has secrets, so it needs a uid of its own: give a user that is not root"
        )
    for name, path in files.items():
        problem = secret.examine((), path)
        if problem is not None:
            kind = RefusedError if problem.refused else InputError
            raise kind(f"{spec.name}: {name}: {problem.text}")
