"""The command line: what it means, and what it says to what it cannot mean."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.unit.web_support import PATIENCE

from worker_exporter import __version__
from worker_exporter.cli import parse, run
from worker_exporter.collectors.base import REGISTRY
from worker_exporter.scrape import Settings
from worker_exporter.web.listen import Address

PROGRAM = [sys.executable, "-m", "worker_exporter"]
ERROR = "worker-exporter: error: "


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A cgroup2 tree with the worker llm/8080."""
    root = tmp_path / "cgroup"
    worker = root / "worker.slice" / "llm-8080.service"
    worker.mkdir(parents=True)
    for folder in (root, worker.parent, worker):
        (folder / "cgroup.controllers").write_text("")
        (folder / "cgroup.procs").write_text("")
        (folder / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (folder / "cpu.stat").write_text("usage_usec 3\nuser_usec 2000000\nsystem_usec 1\n")
    return root


def call(
    *arguments: str, stdout: int = subprocess.PIPE, preexec: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run the program; `preexec` is shell that goes before it."""
    command = PROGRAM if not preexec else ["sh", "-c", f'{preexec}; exec "$@"', "sh", *PROGRAM]
    return subprocess.run(
        [*command, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextmanager
def started(*arguments: str, soft_limit: int | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The serving program, killed at the end."""

    def limit() -> None:
        if soft_limit is not None:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard))

    process = subprocess.Popen(
        [*PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def listening(process: "subprocess.Popen[str]") -> str:
    """host:port from the log, once it is there."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r'level=info msg="listening" address=(\S+) tls=(?:true|false)', line):
            return found[1]
    pytest.fail("it ended without listening")


def test_the_defaults_are_those_of_the_settings() -> None:
    parsed = parse([])
    assert parsed is not None
    assert parsed.settings == Settings()
    assert parsed.addresses == (Address("", 10390),)
    assert (parsed.once, parsed.openmetrics) == (False, False)
    assert (parsed.log_level, parsed.log_format) == ("info", "logfmt")
    assert parsed.busy_threshold == 10
    assert parsed.site.telemetry_path == "/metrics"
    assert (parsed.site.max_requests, parsed.site.timeout_offset) == (40, 0.5)
    assert set(parsed.site.summaries) == set(REGISTRY)


@pytest.mark.parametrize("position", [0, 3, 99])
def test_flags_mean_the_same_before_and_after_the_command(position: int, tmp_path: Path) -> None:
    flags = [
        *("--worker.slice=a.slice", "--worker.slice", "b.slice", "--worker.max=7"),
        *("--worker.pattern", r"(?P<service>\w+)/(?P<instance>\d+)", "--worker.user-managers"),
        *("--no-collector.io", "--collector.cpu", "--smoothing.time-constant=2.5"),
        *(f"--path.{which}={tmp_path}" for which in ("cgroupfs", "procfs", "sysfs")),
        *("--web.listen-address=:1", "--web.listen-address=[::1]:2", "--web.max-requests=0"),
        *("--web.timeout-offset=0", "--web.telemetry-path=/m", "--log.level=warn"),
        *("--log.format=json", "--format=openmetrics", "--telemetry.busy-threshold=0.5"),
    ]
    parsed = parse([*flags[:position], "once", *flags[position:]])
    assert parsed is not None
    assert parsed.settings == Settings(
        cgroupfs=str(tmp_path),
        procfs=str(tmp_path),
        sysfs=str(tmp_path),
        slices=("a.slice", "b.slice"),
        patterns=(re.compile(r"(?P<service>\w+)/(?P<instance>\d+)"),),
        user_managers=True,
        max_workers=7,
        time_constant=2.5,
        collectors=Settings().collectors - {"io"},
    )
    assert parsed.addresses == (Address("", 1), Address("::1", 2))
    assert (parsed.once, parsed.openmetrics) == (True, True)
    assert (parsed.log_level, parsed.log_format) == ("warn", "json")
    assert parsed.busy_threshold == 0.5
    assert parsed.site.telemetry_path == "/m"
    assert (parsed.site.max_requests, parsed.site.timeout_offset) == (0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "No such option '--bogus'"),
        (["--worker.max"], "requires an argument"),
        (["--worker.max=0"], "--worker.max"),
        (["--worker.max=many"], "--worker.max"),
        (["--web.max-requests=-1"], "--web.max-requests"),
        (["--web.timeout-offset=nan"], "'nan' is not a number of seconds from 0 up"),
        (["--smoothing.time-constant=0"], "'0' is not a number of seconds above 0"),
        (["--smoothing.time-constant=inf"], "'inf' is not a number of seconds from 0 up"),
        (["--telemetry.busy-threshold=-1"], "'-1' is not a percentage from 0 up"),
        (["--telemetry.busy-threshold=all"], "'all' is not a percentage from 0 up"),
        (["--telemetry.busy-threshold=nan"], "'nan' is not a percentage from 0 up"),
        (["--log.level=loud"], "--log.level"),
        (["--log.format=xml"], "--log.format"),
        (["--path.procfs=/none"], "'/none' does not exist"),
        (["--no-collector.none"], "No such option '--no-collector.none'"),
        (["--worker.slice=worker"], "worker"),
        (["--worker.pattern=("], "--worker.pattern"),
        (["--worker.pattern=(?P<service>a)"], "instance"),
        (["--web.listen-address=nowhere"], "cannot listen on 'nowhere'"),
        (["--web.listen-address=:99999"], "cannot listen on ':99999'"),
        (["--web.telemetry-path=metrics"], "telemetry path 'metrics'"),
        (["--web.config.file=/none.yml"], "/none.yml: cannot be read: No such file"),
        (["twice"], "'twice'"),
        (["once", "more"], "unexpected extra argument"),
        (["once", "--format=xml"], "--format"),
        (["--format=text"], "--format belongs to: worker-exporter once"),
        (["--web.config.file=/no\nne"], "/no ne: cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_1(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(ERROR) and message in err and err.count("\n") == 1


def test_help_names_every_flag_and_is_as_wide_everywhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert run(["--help"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert max(map(len, texts[0].splitlines())) <= 100
    flags = set(re.findall(r"--[a-z.-]+", texts[0]))
    assert flags == {
        *("--web.listen-address", "--web.telemetry-path", "--web.config.file"),
        *("--web.max-requests", "--web.timeout-offset"),
        *("--path.cgroupfs", "--path.procfs", "--path.sysfs"),
        *("--worker.slice", "--worker.pattern", "--worker.user-managers", "--worker.max"),
        *(f"--collector.{name}" for name in REGISTRY),
        *(f"--no-collector.{name}" for name in REGISTRY),
        *("--smoothing.time-constant", "--telemetry.busy-threshold", "--log.level", "--log.format"),
        *("--format", "--version", "--help"),
    }
    sections = re.findall(r"^(\w+):$", texts[0], re.MULTILINE)
    assert sections == ["Web", "Workers", "Telemetry", "Collectors", "Paths", "Log", "Other"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"worker-exporter {__version__}\n"


def test_once_prints_one_scrape(tree: Path) -> None:
    text = call("once", f"--path.cgroupfs={tree}")
    assert text.returncode == 0, text.stderr
    openmetrics = call(f"--path.cgroupfs={tree}", "once", "--format=openmetrics")
    assert openmetrics.stdout.endswith("\n# EOF\n")
    labels = {"service": "llm", "instance": "8080", "mode": "user"}
    parsed = parse_openmetrics(openmetrics.stdout)  # type: ignore[no-untyped-call]
    for families in (parse_text(text.stdout), parsed):
        samples = [sample for family in families for sample in family.samples]
        (sample,) = [s for s in samples if s.name == "worker_cpu_seconds_total"
                     and s.labels == labels]  # fmt: skip
        assert sample.value == 2.0


def test_once_is_quiet_when_its_reader_has_enough(tree: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = call("once", "--no-collector.units", f"--path.cgroupfs={tree}", stdout=writer)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


def test_once_says_when_it_cannot_write(tree: Path) -> None:
    full = call(
        "once", "--no-collector.units", f"--path.cgroupfs={tree}", preexec="exec >/dev/full"
    )
    assert (full.returncode, full.stderr.count("\n")) == (1, 1)
    assert full.stderr.startswith(f"{ERROR}cannot write to standard output: No space left")
    closed = call("once", "--no-collector.units", f"--path.cgroupfs={tree}", preexec="exec >&-")
    assert (closed.returncode, closed.stderr.count("\n")) == (1, 1)
    assert closed.stderr.startswith(f"{ERROR}standard output is closed")


def test_it_serves_until_a_signal_and_may_open_many_files(tree: Path) -> None:
    arguments = (f"--path.cgroupfs={tree}", "--web.listen-address=127.0.0.1:0")
    with started(*arguments, soft_limit=64) as process:
        host, _, port = listening(process).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = client.makefile().read()
        assert 'worker_cpu_seconds_total{service="llm",instance="8080",mode="user"} 2' in answer
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        soft, hard = re.findall(r"Max open files +(\d+) +(\d+)", limits)[0]
        assert soft == hard
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_port_in_use_is_one_line(tree: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = call(f"--path.cgroupfs={tree}", f"--web.listen-address=127.0.0.1:{port}")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"{ERROR}cannot listen on 127.0.0.1:{port}: ")
    assert "Traceback" not in result.stderr


def test_tls_files_that_are_not_there_are_one_line(tree: Path, tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config: {cert_file: a.crt, key_file: a.key}\n")
    result = call(f"--path.cgroupfs={tree}", f"--web.config.file={config}")
    assert (result.returncode, result.stdout) == (1, "")
    expected = f"{ERROR}cert_file {tmp_path}/a.crt, key_file {tmp_path}/a.key: cannot be used: "
    assert result.stderr == f"{expected}No such file or directory\n"
