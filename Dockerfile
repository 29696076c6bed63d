# worker-exporter in a container. It sees the host's workers only with the options that
# docker-compose.yml gives it, and says there why.

ARG PYTHON=python:3.13.14-slim-trixie

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# What is copied to the image has no pip: it is not needed to run.
RUN python -m venv --without-pip /opt/worker-exporter
COPY requirements /src/requirements
RUN python -m pip install --require-hashes --requirement /src/requirements/build.txt \
 && python -m pip --python /opt/worker-exporter/bin/python install --no-deps \
    --only-binary=:all: --require-hashes --requirement /src/requirements/run.txt
COPY . /src
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /src \
 && python -m pip --python /opt/worker-exporter/bin/python install --no-deps --no-index /wheel/*.whl

FROM ${PYTHON}
ARG PYTHON
LABEL org.opencontainers.image.title="worker-exporter" \
      org.opencontainers.image.description="Prometheus metrics of workers in cgroup v2" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON}"
COPY --from=build /opt/worker-exporter /opt/worker-exporter
# The nobody of every host: the system bus lets in no user that the host does not know.
USER 65534:65534
EXPOSE 10390
STOPSIGNAL SIGTERM
# A proxy that the environment names is for others, so no urllib.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s CMD ["/opt/worker-exporter/bin/python", \
  "-I", "-S", "-c", "import http.client, sys; \
connection = http.client.HTTPConnection('127.0.0.1', 10390, timeout=4); \
connection.request('GET', '/-/healthy'); \
sys.exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["/opt/worker-exporter/bin/worker-exporter"]
