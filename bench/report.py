"""The table of the benchmark in Markdown, and its JSON."""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from bench.helper import BUILD
from bench.measure import Case, Result
from bench.rounds import Load

MIB = 1 << 20


def write_json(result: Result) -> str:
    """Keep `result` under build/bench; the path of the file."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"scrape-{result.case.workers}-{result.case.nofile}.json"
    path.write_text(json.dumps({"host": host(), **asdict(result)}, indent=1) + "\n")
    return str(path)


def host() -> dict[str, str | int]:
    """What the figures depend on."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count() or 0,
    }


def table(results: Sequence[Result]) -> str:
    """All results as Markdown."""
    parts = (_scrapes, _units, _gpus, _sizes, _others)
    return "\n\n".join("\n".join(part(results)) for part in parts)


def _scrapes(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "| workers | load | exporter CPU | floor CPU | ratio | kept-open only | per worker"
        " | wall | worst wall | failed |"
    )
    yield "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for result in results:
        for load in result.loads:
            yield (
                f"| {_title(result.case)} | {load.name} | {_ms(load.cpu_seconds)} "
                f"| {_ms(load.floor_seconds)} | **{load.ratio:.2f}** | {load.kept_ratio:.2f} "
                f"| {load.cpu_seconds / result.case.workers * 1e6:.1f} µs "
                f"| {_ms(load.wall_seconds)} | {_ms(load.worst_wall_seconds)} "
                f"| {load.failed_scrapes} of {result.case.rounds} |"
            )


def _units(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "| units | load | exporter CPU with units | the units add | half of the rounds | ratio"
        " | wall | worst wall | failed |"
    )
    yield "|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    for result in results:
        for units in (*(load.with_units for load in result.loads), result.beside_failed):
            first, third = units.added_quartiles
            yield (
                f"| {_title(result.case)} | {units.name} | {_ms(units.cpu_seconds)} "
                f"| **{_ms(units.added_seconds)}** | {first * 1e3:.1f} to {_ms(third)} "
                f"| {units.ratio:.2f} "
                f"| {_ms(units.wall_seconds)} | {_ms(units.worst_wall_seconds)} "
                f"| {units.failed_scrapes} of {result.case.rounds} |"
            )


def _gpus(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "| workers | GPUs, processes | load | CPU with GPUs | the GPUs add | half of the rounds"
        " | wall | worst wall | failed |"
    )
    yield "|---:|---:|---|---:|---:|---:|---:|---:|---:|"
    for result in results:
        found = result.with_gpus
        if found is None:
            continue
        for load in found.loads:
            first, third = load.added_quartiles
            yield (
                f"| {_title(result.case)} | {found.gpus}, {found.processes} | {load.name} "
                f"| {_ms(load.cpu_seconds)} "
                f"| **{_ms(load.added_seconds)}** | {first * 1e3:.1f} to {_ms(third)} "
                f"| {_ms(load.wall_seconds)} | {_ms(load.worst_wall_seconds)} "
                f"| {load.failed_scrapes} of {result.case.rounds} |"
            )


def _sizes(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "| workers | samples per worker | answer | gzipped | resident | descriptors"
        " | files kept open | first scrape | units known, CPU till then | idle CPU"
        " | files moved idle, busy | workers are |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"
    for result in results:
        moved = ", ".join(str(load.moved_files) for load in result.loads)
        yield (
            f"| {_title(result.case)} | {result.samples_per_worker:.0f} "
            f"| {result.text_bytes / 1e6:.2f} MB | {result.sent_bytes / 1e6:.2f} MB "
            f"| {result.resident_bytes / MIB:.0f} MiB | {result.descriptors} "
            f"| {result.kept_files} of {result.files} | {_ms(result.first_scrape_seconds)} "
            f"| {result.first_units_seconds:.1f} s, {result.first_units_cpu_seconds:.1f} s "
            f"| {result.idle_cpu:.3%} "
            f"| {moved} | {result.kind} |"
        )


def _others(results: Sequence[Result]) -> Iterator[str]:
    yield "| workers | load | compared with | CPU per scrape | of the exporter's | remark |"
    yield "|---:|---|---|---:|---:|---|"
    for result in results:
        for load in result.loads:
            for name, cpu, remark in _compared(result, load):
                times = "" if cpu is None else f"{cpu / load.cpu_seconds:.1f} times"
                yield (
                    f"| {_title(result.case)} | {load.name} | {name} "
                    f"| {'' if cpu is None else _ms(cpu)} | {times} | {remark} |"
                )


def _compared(result: Result, load: Load) -> Iterator[tuple[str, float | None, str]]:
    if load.library_seconds is not None:
        remark = f"{result.library_families} of {result.families} families of a worker"
        yield "prometheus_client", load.library_seconds, remark
    for peer in load.peers:
        remark = peer.remark
        if peer.samples_per_worker is not None:
            remark += f"; {peer.samples_per_worker:.0f} samples per worker"
        yield peer.name, peer.cpu_seconds, remark


def _title(case: Case) -> str:
    return f"{case.workers:,} ({case.nofile:,} descriptors allowed)"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"
