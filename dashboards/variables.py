"""The variables at the top of the dashboards."""

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

from dashboards.promql import NODES, SERVICE_ON_NODE

DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

_WORKERS = "worker_up|worker_desired|worker_unit_state"
"""Series of all workers that are, were, or should be there."""

_KNOWN = f"{_WORKERS}|worker_service_cpu_seconds_total"
"""The same for services, which outlive their workers."""


def datasource() -> builders.DatasourceVariable:
    """Which Prometheus is asked."""
    return builders.DatasourceVariable("datasource").label("Data source").type("prometheus")


def nodes() -> builders.QueryVariable:
    """Any number of nodes. A node whose exporter is silent has `up` all the same."""
    return _several(_variable("node", "Node", 'up{job="worker-exporter"}'))


def services() -> builders.QueryVariable:
    """Any number of services of the chosen nodes."""
    return _several(_variable("service", "Service", f'{{__name__=~"{_KNOWN}", {NODES}}}'))


def gpus() -> builders.QueryVariable:
    """Any number of GPUs of the chosen nodes, by the driver's numbers."""
    return _several(_variable("gpu", "GPU", f"worker_node_gpu_info{{{NODES}}}"))


def service_of_nodes() -> builders.QueryVariable:
    """One service of the chosen nodes."""
    return _variable("service", "Service", f'{{__name__=~"{_KNOWN}", {NODES}}}')


def one_service() -> builders.QueryVariable:
    """One service of all there are."""
    return _variable("service", "Service", f'{{__name__=~"{_KNOWN}"}}')


def one_node() -> builders.QueryVariable:
    """One node that has workers of the chosen service."""
    return _variable("node", "Node", f'{{__name__=~"{_WORKERS}", service="$service"}}')


def one_instance() -> builders.QueryVariable:
    """One worker of the chosen service and node."""
    return _variable("instance", "Instance", f'{{__name__=~"{_WORKERS}", {SERVICE_ON_NODE}}}')


def _variable(name: str, label: str, selector: str) -> builders.QueryVariable:
    query = f"label_values({selector}, {name})"
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}", "qryType": 1})
        .definition(query)
        # what is gone by now can still be chosen while it is in the time range
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NATURAL_ASC)
    )


def _several(variable: builders.QueryVariable) -> builders.QueryVariable:
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return variable.multi(True).include_all(True).all_value(".+").current(everything)
