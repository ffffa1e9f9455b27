# polyhook as one static binary on a base image without a shell. Builds with Docker (with or without BuildKit), Podman and Buildah:
#
#   docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" -t polyhook .
#   podman build --format docker …        the same; without --format the image has no HEALTHCHECK
#
# For a reproducible image pin both base images by digest: `docker buildx imagetools inspect IMAGE` prints it; write
# FROM IMAGE:TAG@sha256:…. Cargo uses the registry, the mirror and the certificates of the base image.

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src

# A static binary, C library included. glibc still resolves names from /etc/hosts and DNS; only other NSS modules are missing.
# --target (below) keeps the flag away from build scripts and procedural macros, which do not work with it.
ENV RUSTFLAGS="-C target-feature=+crt-static"

# Linking with the release profile takes minutes. For a quick, larger build:
# --build-arg CARGO_PROFILE_RELEASE_LTO=off --build-arg CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
ARG CARGO_PROFILE_RELEASE_LTO
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS

# Builds the dependencies in a layer of their own, from manifests with empty sources: only a changed manifest rebuilds it.
# Cargo needs the manifest of every workspace member.
COPY .cargo .cargo
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
# Copied files keep their modification time and may be older than the empty build; touch makes cargo build them.
RUN touch src/lib.rs src/main.rs simulator/src/lib.rs \
    && cargo build --release --locked --target host-tuple --package polyhook \
    && install -D target/*/release/polyhook /out/polyhook \
    && install -d -m 775 /out/state/polyhook

FROM gcr.io/distroless/static-debian12:nonroot

COPY --from=build /out/polyhook /usr/bin/polyhook
# Holds the embedded queue, the spool and the file archive at their default paths. A new volume here inherits owner, group and mode.
# OpenShift runs the image as a random user of group 0. Copies the parent, because a copied folder itself does not keep its mode.
COPY --from=build --chown=65532:0 /out/state/ /var/lib/
WORKDIR /var/lib/polyhook

# A number, because Kubernetes' runAsNonRoot requires one.
USER 65532:65532

# Deliveries. The admin listener is on 127.0.0.1:9090 by default, and the console, which is off, on 127.0.0.1:8090.
EXPOSE 8080
STOPSIGNAL SIGTERM
# Finds the admin listener through POLYHOOK_CONFIG and the other variables, not through the arguments of the service.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["/usr/bin/polyhook", "healthcheck"]
ENTRYPOINT ["/usr/bin/polyhook"]
CMD ["run"]

# Last, so that a new version alone rebuilds nothing.
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="polyhook" \
      org.opencontainers.image.description="Receives PolyAI webhooks durably and archives every conversation with its audio" \
      org.opencontainers.image.source="https://github.com/polyhook/polyhook" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
