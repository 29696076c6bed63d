"""The images of the stack: the exporter's own, and stand-ins of Debian's programs for the others.

A stand-in has no programs in it, but the guest's /usr mounted, with Debian's Prometheus and
Alertmanager. Grafana, which Debian does not have, is a page that says it is well.
"""

import io
import json
import subprocess
import tarfile

from .sidecar_docker_daemon import docker
from .stack_scene import CHECKOUT, STANDINS, model

OURS = "worker-exporter"
# One look takes longer here than it may on a real machine; what is looked at is as shipped.
PATIENT = {"healthcheck": {"interval": "30s", "timeout": "2m", "start_period": "20m"}}
ENTRYPOINT = """\
#!/bin/sh
case "$*" in
*/alertmanager.yml*) exec prometheus-alertmanager "$@" ;;
*/prometheus.yml*) exec prometheus "$@" ;;
*) exec busybox httpd -f -p 3000 -h /www ;;
esac
"""
FILES = {"standin": ENTRYPOINT, "www/api/health": "{}"}
LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    # For the health checks; Debian's busybox has no names for what it can do.
    "sbin/wget": "/usr/bin/busybox",
}
# What the projects' images have at these places, and whose it is there.
FOLDERS = {"prometheus": 65534, "alertmanager": 65534, "var/lib/grafana": 472}


def make_images() -> None:
    """Make them; with these the stack needs no registry."""
    docker("load", f"--input={CHECKOUT / 'worker-exporter.tar'}")
    services = model()["services"]
    others = {name: each["image"] for name, each in services.items() if each["image"] != OURS}
    subprocess.run(
        ["docker", "import", '--change=ENTRYPOINT ["/standin"]', "-", "standin"],
        input=_packed(),
        check=True,
    )
    for image in others.values():
        docker("tag", "standin", image)
    changed: dict[str, object] = {name: {"volumes": ["/usr:/usr:ro"], **PATIENT} for name in others}
    changed["exporter"] = PATIENT
    (CHECKOUT / STANDINS).write_text(json.dumps({"services": changed}))


def _packed() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, target in LINKS.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        for name, owner in FOLDERS.items():
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.uid = tarfile.DIRTYPE, 0o755, owner
            tar.addfile(folder)
        for name, text in FILES.items():
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(text), 0o755
            tar.addfile(file, io.BytesIO(text.encode()))
    return packed.getvalue()
