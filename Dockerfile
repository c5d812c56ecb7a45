# Holds the program alone: no shell, no libc, no base image to fetch.
#
# Build it from what promu built for the platform, with the CA roots of the building machine beside that:
#   promu build --prefix .build/linux-amd64
#   cp /etc/ssl/certs/ca-certificates.crt .build/
#   docker build -t pg_liveness_exporter .
# For another platform, `promu crossbuild` writes .build/OS-ARCH, and --build-arg ARCH=arm64 picks it.
FROM scratch

ARG ARCH="amd64"
ARG OS="linux"
ARG VERSION=""
ARG REVISION=""

LABEL org.opencontainers.image.title="pg_liveness_exporter" \
      org.opencontainers.image.description="Tells Prometheus whether a PostgreSQL server is alive, how quickly it answers, and whether there are connections left." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# For sslmode=verify-full with sslrootcert=system: servers whose certificate a public CA signed.
COPY .build/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE NOTICE /
COPY .build/${OS}-${ARCH}/pg_liveness_exporter /bin/pg_liveness_exporter

# The number and not a name: there is no /etc/passwd here, and Kubernetes' runAsNonRoot asks for a number.
USER 65534
EXPOSE 10432
ENTRYPOINT ["/bin/pg_liveness_exporter"]
