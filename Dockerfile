# The one image of the operator: controller, server, command line, and the parser that teams' pods copy from it.
#   docker build --tag registry.example/dagbundle-operator:0.2.0-dev.0 .
# To publish into Airflow's own database it needs the deployment's Airflow, by its minor (docs/airflow.md):
#   docker build --build-arg AIRFLOW=3.3 --tag registry.example/dagbundle-operator:0.2.0-dev.0-airflow3.3 .
# BASE may be any Debian-like image whose python3 is 3.11 or newer and has venv; it must be the same for both stages.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
# everything by hash, the tool that installs and what builds the wheel among it
COPY requirements/uv.txt requirements/runtime.txt requirements/dev.txt requirements/
COPY requirements/runtime-airflow-3.1.txt requirements/runtime-airflow-3.2.txt requirements/runtime-airflow-3.3.txt requirements/
RUN python3 -m venv /tools && /tools/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements/uv.txt
ENV UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
# 3.1, 3.2 or 3.3; empty for an image without Airflow
ARG AIRFLOW=
RUN /tools/bin/uv venv --python "$(command -v python3)" /opt/dagbundle \
 && /tools/bin/uv pip install --python /opt/dagbundle/bin/python --require-hashes --requirement "requirements/runtime${AIRFLOW:+-airflow-$AIRFLOW}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
RUN /tools/bin/uv build --wheel --python "$(command -v python3)" --build-constraint requirements/dev.txt --require-hashes --out-dir /dist \
 && /tools/bin/uv pip install --python /opt/dagbundle/bin/python --no-deps /dist/*.whl \
 && /opt/dagbundle/bin/python -m dagbundle.runtime.parser_home /opt/dagbundle/parser.pyz

FROM ${BASE}
LABEL org.opencontainers.image.title="dagbundle-operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/dagbundle /opt/dagbundle
ENV PATH=/opt/dagbundle/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
# by number, so that runAsNonRoot can be checked
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["/opt/dagbundle/bin/dagbundle"]
