"""`python -m bench.scrape`: what a scrape costs the exporter, against what it costs the kernel."""

import argparse
import resource
import sys
from collections.abc import Sequence

from bench.measure import Case, Result, measure
from bench.report import table, write_json
from bench.signals import heed_signals
from worker_exporter.errors import UserError

_ROUNDS = 40
_FEWEST_ROUNDS = 10
_IDLE_SECONDS = 10.0
_NOFILE = 110_000
# As many workers of a hybrid host as have all their files open within 20,000 descriptors.
_FILL_20_000 = 2400


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    options = _options(arguments)
    heed_signals()
    allowed = _raise_descriptor_limit()
    try:
        results = [_run(case) for case in _cases(options, allowed)]
    except UserError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started has ended", file=sys.stderr)
        return 130
    print(table(results))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scrape", description=__doc__)
    parser.add_argument("--workers", type=_positive, default=1000, help="how many (1000)")
    parser.add_argument("--rounds", type=_positive, help=f"scrapes of each load ({_ROUNDS})")
    parser.add_argument("--nofile", type=_positive, help="the exporter's RLIMIT_NOFILE")
    parser.add_argument("--suite", action="store_true", help="1,000 to 10,000 workers")
    return parser.parse_args(arguments)


def _cases(options: argparse.Namespace, allowed: int) -> list[Case]:
    if options.suite:
        return [
            _case(1000, options.rounds, allowed, True),
            _case(_FILL_20_000, options.rounds, allowed, False),
            _case(5000, options.rounds, min(20_000, allowed), False),
            _case(10_000, options.rounds, allowed, False),
        ]
    nofile = allowed if options.nofile is None else options.nofile
    if nofile > allowed:
        raise UserError(f"--nofile: the host allows {allowed} descriptors; ask for fewer")
    return [_case(options.workers, options.rounds, nofile, options.workers <= 1000)]


def _case(workers: int, rounds: int | None, nofile: int, comparisons: bool) -> Case:
    fitting = max(_FEWEST_ROUNDS, _ROUNDS * 1000 // max(workers, 1000))
    return Case(workers, rounds or fitting, nofile, comparisons)


def _run(case: Case) -> Result:
    print(f"measuring {case.workers:,} workers, {case.rounds} rounds of each load", file=sys.stderr)
    result = measure(case, _IDLE_SECONDS)
    print(f"wrote {write_json(result)}", file=sys.stderr)
    return result


def _raise_descriptor_limit() -> int:
    """Allow this process and those it starts as many descriptors as the host lets it; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, _NOFILE), max(hard, _NOFILE)))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return number


if __name__ == "__main__":
    sys.exit(main())
