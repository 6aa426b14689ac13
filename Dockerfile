# syntax=docker/dockerfile:1
# Build:  docker build -t sluis .
# Run:    docker run -v sluis:/var/lib/sluis -v ./sluis.toml:/etc/sluis/sluis.toml:ro -p 2525:2525 sluis
# Every step has the exec form; tests/ops/test_image.py runs those of the build stage in a folder of its own.
# The exec form has no &&, hence several RUN in a row:
# hadolint global ignore=DL3059

FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN ["python", "-m", "venv", "/opt/sluis"]
RUN ["/opt/sluis/bin/python", "-m", "pip", "install", "--require-hashes", "-r", "requirements.lock"]
RUN ["python", "-m", "pip", "install", "--require-hashes", "-r", "requirements-build.lock"]
COPY pyproject.toml README.md LICENSE ./
COPY policy policy
COPY proxy proxy
RUN ["python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "/dist", "."]
RUN ["/opt/sluis/bin/python", "-m", "pip", "install", "--no-deps", "--no-index", "--find-links", "/dist", "sluis"]

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Sluis" \
      org.opencontainers.image.description="An async SMTP relay that enforces marketing-mail law at the moment of sending" \
      org.opencontainers.image.licenses="Apache-2.0"
# The volume holds the consent ledger: without a real one, every opt-out is gone with the container.
RUN ["install", "-d", "-o", "65532", "-g", "65532", "-m", "0700", "/var/lib/sluis"]
COPY --from=build /opt/sluis /opt/sluis
ENV PATH=/opt/sluis/bin:$PATH HOME=/var/lib/sluis PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
VOLUME /var/lib/sluis
EXPOSE 2525 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["sluis", "healthcheck"]
ENTRYPOINT ["sluis"]
CMD ["serve"]
