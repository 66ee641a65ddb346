# The worker's image: `docker build -t lapwing .`
#
# No shell, no package manager, not root; nothing is written, so that the root file system can be
# read-only. Both base images can be others, of your registry for instance: the first needs cargo and
# a C compiler, the second glibc and certificate authorities.
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The dependencies alone, against empty sources: a layer that stays until the lock file changes.
COPY Cargo.toml Cargo.lock ./
# Benchmarks are not built, but cargo wants them to be there.
RUN mkdir -p src benches \
 && for name in $(sed -n '/^\[\[bench/,/^name/s/^name = "\(.*\)"/\1/p' Cargo.toml); do \
      touch "benches/$name.rs"; \
    done \
 && echo 'fn main() {}' >src/main.rs \
 && touch src/lib.rs \
 && cargo build --locked --release --bin lapwing \
 && rm -r src
COPY src src
# cargo goes by the time of files, and copied ones are older than the build above.
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
# A number, so that Kubernetes can see that it is not root's.
USER 65532:65532
# Console and API; probes and metrics. Both are on loopback, or off, until [admin] says otherwise.
EXPOSE 9090 9091
# Of use to Docker and compose; Kubernetes has probes.
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/usr/local/bin/lapwing", "health"]
# SIGTERM drains. The worker is process 1 itself: nothing stands between it and the signal.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/lapwing"]
CMD ["run"]
