# Holds the program alone: no shell, no libc, no base image to fetch. What it needs to know of public CAs is in the program
# (internal/publicroots); where /etc/ssl/certs/ca-certificates.crt is mounted, that counts instead.
#
# `make tarballs image` builds it with buildah. By hand, of what promu built for the platform:
#   GOTOOLCHAIN=auto promu build --prefix .build/linux-amd64
#   docker build -t pg_liveness_exporter .
# For another platform, promu crossbuild or scripts/build-tarballs writes .build/OS-ARCH, and --build-arg ARCH=arm64
# selects it.
FROM scratch

ARG ARCH="amd64"
ARG OS="linux"
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""

LABEL org.opencontainers.image.title="pg_liveness_exporter" \
      org.opencontainers.image.description="Prometheus exporter that reports whether PostgreSQL servers are alive" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The pg_liveness_exporter authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

COPY --chmod=644 LICENSE NOTICE /
COPY --chmod=755 .build/${OS}-${ARCH}/pg_liveness_exporter /bin/pg_liveness_exporter

# The number and not a name: there is no /etc/passwd here, and Kubernetes' runAsNonRoot asks for a number.
USER 65534:65534
EXPOSE 10432

# Asks the exporter whether it runs, and no database: an orchestrator would restart the exporter in each outage of one. With
# another address, port or path (--web.external-url, --web.route-prefix), TLS or passwords, give the URL of
# --health.listen-address (docker run --health-cmd), or use --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=6s CMD ["/bin/pg_liveness_exporter", "check", "--style=docker", "--livez=http://127.0.0.1:10432/livez"]

ENTRYPOINT ["/bin/pg_liveness_exporter"]
