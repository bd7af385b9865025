# The service, its relay and the consumers in one image. docs/deployment.md says how to run it.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.txt ./
RUN python -m pip install --constraint requirements.txt hatchling
COPY LICENSE README.md pyproject.toml ./
COPY sfm_graph sfm_graph
COPY sql sql
COPY graphql/operations graphql/operations
COPY consumers consumers
RUN python -m hatchling build -t wheel -d /wheels \
    && cd consumers \
    && python -m hatchling build -t wheel -d /wheels
# Wheels alone, each at its pin: nothing is compiled, and no name of ours is looked up elsewhere.
RUN python -m venv --without-pip /opt/sfm \
    && python -m pip --python /opt/sfm/bin/python install --only-binary :all: --constraint requirements.txt \
        "$(echo /wheels/sfm_graph-*.whl)[fastembed,qdrant]" /wheels/sfm_graph_consumers-*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="sfm-graph" \
      org.opencontainers.image.description="A graph memory service for AI agents, on Postgres" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN python -m pip uninstall --yes pip \
    && rm -rf /usr/local/lib/python3.*/ensurepip \
    && groupadd --gid 10001 sfm \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin sfm \
    && install -d -o 10001 -g 10001 -m 0750 /data
COPY --from=build /opt/sfm /opt/sfm
COPY helm/sfm-graph/files/image/healthy.py /opt/sfm/healthy.py
# Beyond loopback the service starts only with a way to authenticate, such as SOMA_API_TOKEN_FILE.
ENV PATH=/opt/sfm/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    HOME=/data \
    HF_HOME=/data/models \
    SFM_HOST=0.0.0.0 \
    SFM_PORT=9595 \
    SFM_DATA_DIR=/data
# Not /data: settings are read from `.env` in the current folder, and whoever writes data must not write settings.
WORKDIR /opt/sfm
VOLUME ["/data"]
EXPOSE 9595
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/sfm/healthy.py", "http"]
ENTRYPOINT ["sfm"]
CMD ["serve"]
