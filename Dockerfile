# The worker's image: `docker build -t lapwing .`
#
# The image has no shell and no package manager and runs without root. The worker writes no files, so the
# root file system can be read-only. You can replace both base images, for instance by images of your
# registry: the first needs cargo and a C compiler, the second glibc and certificate authorities.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# Builds the dependencies alone, with empty sources. Docker reuses this layer until the lock file changes.
COPY Cargo.toml Cargo.lock ./
# Benchmarks are not built, but cargo requires their files.
RUN mkdir -p src benches \
 && for name in $(sed -n '/^\[\[bench/,/^name/s/^name = "\(.*\)"/\1/p' Cargo.toml); do \
      touch "benches/$name.rs"; \
    done \
 && echo 'fn main() {}' >src/main.rs \
 && touch src/lib.rs \
 && cargo build --locked --release --bin lapwing \
 && rm -r src
COPY src src
# cargo compares the times of files, and the copied files are older than the build above.
RUN find src -name '*.rs' -exec touch {} + \
 && cargo build --locked --release --bin lapwing

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lapwing" \
      org.opencontainers.image.description="A RabbitMQ worker that does not lose messages" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /src/target/release/lapwing /usr/local/bin/lapwing
# A number, so that Kubernetes can verify that the user is not root.
USER 65532:65532
# 8672: console and API, by default on loopback only. 9091: probes and metrics, by default off.
# [admin] sets both.
EXPOSE 8672 9091
# For Docker and compose. Kubernetes uses probes instead.
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/usr/local/bin/lapwing", "health"]
# SIGTERM starts the drain. The worker itself is process 1, so it gets the signal directly.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/lapwing"]
CMD ["run"]
