"""The PromQL that dashboards share: whom a query is about, and how its series are brought together.

A query aggregates by what the contract names, so that neither the target's labels nor a second
Prometheus, nor a worker counted twice, shows up as one more line.
"""

NODES = 'node=~"$node"'
SERVICES = f'{NODES}, service=~"$service"'
GPUS = f'{NODES}, gpu=~"$gpu"'

# Grafana makes a regular expression of a variable of which several can be chosen; what a single one
# holds it leaves as it is, and names such as c++ are none.
ONE_SERVICE = f'{NODES}, service="$service"'
ONE_NODE = 'node="$node"'
SERVICE_ON_NODE = f'{ONE_NODE}, service="$service"'
ONE_WORKER = f'{SERVICE_ON_NODE}, instance="$instance"'

EXPORTERS = f'job="worker-exporter", {NODES}'
SIDECARS = f'job="worker-sidecar", {NODES}'

NODE = "node"
SERVICE = "node, service"
WORKER = "node, service, instance"
GPU = "node, gpu, uuid, mig"

SHIPPED = 'alertname=~"Workers?[A-Z].*", alertname!="WorkerWatchdog"'

UNIT_STATES = ("active", "activating", "deactivating", "failed", "inactive")

WATCHDOG = 'ALERTS{alertname="WorkerWatchdog", alertstate="firing"}'

INTERVAL = "[$__rate_interval]"
RANGE = "[$__range]"

_MOST = 40
ONLY_MOST = f"Of more than {_MOST} only those are drawn that came highest in the time range."
"""For the description of what `most` finds."""


def largest(labels: str, selector: str) -> str:
    """One series for each set of `labels`: for what is told once, however often it is scraped."""
    return f"max by ({labels}) ({selector})"


def total(labels: str, selector: str) -> str:
    """The sum over what differs within each set of `labels`."""
    return f"sum by ({labels}) ({selector})" if labels else f"sum({selector})"


def highest(labels: str, *selectors: str) -> str:
    """Those that came highest in the whole time range, whatever they are at its end."""
    each = (largest(labels, f"max_over_time({one}{RANGE} @ end())") for one in selectors)
    return f"topk({_MOST}, {' or '.join(each)})"


def most(labels: str, *selectors: str) -> str:
    """The first of `selectors` that each set of `labels` has, of the highest alone: no graph can
    show thousands of lines.
    """
    each = " or ".join(largest(labels, one) for one in selectors)
    return f"({each}) and on ({labels}) {highest(labels, *selectors)}"


def per_second(labels: str, counter: str) -> str:
    """The rate of a counter, summed over what differs within `labels`."""
    return total(labels, f"rate({counter}{INTERVAL})")


def threshold(name: str) -> str:
    """The threshold of an alert, by the middle of the name of its series."""
    return f"max(threshold:{name})"


def running(matchers: str) -> str:
    """1 for each worker that has a living process."""
    return f"({largest(WORKER, f'worker_up{{{matchers}}}')} == 1)"


def answers(targets: str) -> str:
    """1 for each node that answers, 0 for one that does not, or that was there in the last hour:
    of a node whose own agent is gone there is not even `up`.
    """
    lately = largest(NODE, f"last_over_time(up{{{targets}}}[1h])")
    return f"({largest(NODE, f'up{{{targets}}}')} or 0 * {lately})"


def declared(matchers: str, nodes: str = NODES) -> str:
    """1 for each declared worker, 0 for one that was stopped on purpose, where the exporter
    answers: elsewhere nobody knows whether they run.
    """
    desired = largest(WORKER, f"worker_desired{{{matchers}}}")
    up = largest(NODE, f'up{{job="worker-exporter", {nodes}}}')
    return f"({desired} and on ({NODE}) ({up} == 1))"


def down(matchers: str) -> str:
    """The workers that are declared and have no process, where the exporter answers."""
    return f"({declared(matchers)} == 1 unless on ({WORKER}) {running(matchers)})"


def state(matchers: str, nodes: str = NODES) -> str:
    """1 running, 0 down, -1 stopped on purpose, -2 ended and declared by nobody."""
    up = largest(WORKER, f"worker_up{{{matchers}}}")
    return f"{running(matchers)} or {declared(matchers, nodes)} - 1 or {up} - 2"


def uptime(matchers: str) -> str:
    """Seconds since the start of each worker that runs; the start outlives the processes."""
    start = largest(WORKER, f"worker_start_time_seconds{{{matchers}}}")
    return f"time() - {start} and on ({WORKER}) {running(matchers)}"


def failed(matchers: str) -> str:
    """The workers whose unit has failed and that nobody stopped on purpose."""
    unit = largest(WORKER, f'worker_unit_state{{state="failed", {matchers}}}')
    desired = largest(WORKER, f"worker_desired{{{matchers}}}")
    return f"({unit} == 1 unless on ({WORKER}) ({desired} == 0))"


def unready(matchers: str) -> str:
    """The workers that live and whose last probe failed."""
    ready = largest(WORKER, f"worker_ready{{{matchers}}}")
    return f"({ready} == 0 and on ({WORKER}) {running(matchers)})"


def wrong(matchers: str) -> str:
    """The workers that are down, failed or not ready, each once."""
    return f"{down(matchers)} or {failed(matchers)} or {unready(matchers)}"


def counted(found: str, among: str) -> str:
    """How many series `found` has; 0 only where there is something `among` which to look."""
    return f"count({found}) or 0 * count({among})"


def memory(matchers: str) -> tuple[str, str]:
    """Memory that is no page cache; where the kernel tells no parts, the processes' own sum."""
    return (
        f"worker:worker_memory_uncached_bytes:sum{{{matchers}}}",
        f"worker_memory_rss_bytes{{{matchers}}}",
    )


def memory_used(matchers: str) -> str:
    """The first of `memory` that each worker has."""
    return " or ".join(largest(WORKER, each) for each in memory(matchers))


def oom_kills(matchers: str, window: str) -> str:
    """How many processes of each service were killed for memory within `window`, by the service's
    slice, with those that it had counted before it was first seen; where it does not say, by its
    workers.
    """
    event = f'event="oom_kill", {matchers}'
    of_slice = largest(SERVICE, f"increase(worker_service_memory_events_total{{{event}}}{window})")
    record = f"service:worker_oom_kills_at_birth:min3m{{{matchers}}}"
    at_birth = largest(SERVICE, f"max_over_time({record}{window})")
    both = f'{of_slice} or label_replace({at_birth}, "at_birth", "1", "", "")'
    of_workers = largest(WORKER, f"increase(worker_memory_events_total{{{event}}}{window})")
    return f"{total(SERVICE, both)} or {total(SERVICE, of_workers)}"


def restarts(matchers: str, window: str) -> str:
    """How often systemd started each worker again within `window`."""
    return largest(WORKER, f"increase(worker_restarts_total{{{matchers}}}{window})")


def firing(matchers: str) -> str:
    """The shipped alerts that fire, without the one that always does."""
    return f'ALERTS{{alertstate="firing", {SHIPPED}, {matchers}}}'


def unit_state(matchers: str) -> str:
    """The state of units as a number, by the place in UNIT_STATES from 1 on."""
    states = (
        largest(WORKER, f'worker_unit_state{{state="{state}", {matchers}}}')
        for state in UNIT_STATES
    )
    return " + ".join(f"{number} * {state}" for number, state in enumerate(states, 1))
