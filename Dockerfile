# polyhook as one static binary on a base without a shell. Builds with Docker (BuildKit or not), Podman and Buildah:
#
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t polyhook .
#   podman build --format docker …        the same; without --format the image has no HEALTHCHECK
#
# For images that others run, pin both bases by digest: `docker buildx imagetools inspect IMAGE` prints it; write
# FROM IMAGE:TAG@sha256:… and let a bot move it. Cargo uses the registry, mirror and certificates of the base image.

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src

# Static, C library included. glibc resolves names by itself from /etc/hosts and DNS; only other NSS modules are lost.
# With --target, build scripts and procedural macros are built without the flag, which they cannot bear.
ENV RUSTFLAGS="-C target-feature=+crt-static"

# The release profile links for minutes. To try something out:
# --build-arg CARGO_PROFILE_RELEASE_LTO=off --build-arg CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
ARG CARGO_PROFILE_RELEASE_LTO
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS

# Dependencies in a layer of their own, which only a change of a manifest rebuilds: the manifests with nothing behind them.
# Cargo wants one of every member of the workspace.
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY simulator/Cargo.toml simulator/
RUN mkdir -p src benches/src simulator/src docs \
    && touch src/lib.rs benches/src/lib.rs simulator/src/lib.rs \
    && echo 'fn main() {}' >src/main.rs \
    && cargo build --release --locked --target host-tuple --package polyhook

COPY docs/architecture.md docs/
COPY simulator/src simulator/src
COPY src src
# What was copied keeps its time and may be older than what was just built from nothing.
RUN touch src/lib.rs src/main.rs simulator/src/lib.rs \
    && cargo build --release --locked --target host-tuple --package polyhook \
    && install -D target/*/release/polyhook /out/polyhook \
    && install -d /out/state

FROM gcr.io/distroless/static-debian12:nonroot

COPY --from=build /out/polyhook /usr/bin/polyhook
# Embedded queue, spool and file archive, with paths as they are by default. A new volume here takes over its owner.
COPY --from=build --chown=65532:65532 /out/state /var/lib/polyhook
WORKDIR /var/lib/polyhook

# glibc keeps a heap for each thread, and what wanders between threads is then kept twice: with eight large recordings on their way to
# a bucket 71 MB instead of 87, at the same CPU (docs/benchmarks.md).
ENV MALLOC_ARENA_MAX=1

# By number, as Kubernetes' runAsNonRoot asks for.
USER 65532:65532

# Deliveries; the admin listener is on 127.0.0.1:9090 unless configured otherwise.
EXPOSE 8080
STOPSIGNAL SIGTERM
# It finds the admin listener by POLYHOOK_CONFIG and the other variables, not by the arguments of the service.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["/usr/bin/polyhook", "healthcheck"]
ENTRYPOINT ["/usr/bin/polyhook"]
CMD ["run"]

# Last, so that another version alone rebuilds nothing.
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="polyhook" \
      org.opencontainers.image.description="Receives PolyAI webhooks durably and archives every conversation with its audio" \
      org.opencontainers.image.source="https://github.com/polyhook/polyhook" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
