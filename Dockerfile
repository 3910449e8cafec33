# symfuse in a container: mount a dataset inside, and run a command on the clean view.
#
#     docker build -t symfuse .
#     docker run --rm --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined \
#         -v /data:/data:ro symfuse run /data/dataset -- ls -li {}
#
#   --device /dev/fuse                    the kernel's FUSE device; nothing can be mounted without it
#   --cap-add SYS_ADMIN                   the capability that mount(2) asks for
#   --security-opt apparmor=unconfined    Docker's own AppArmor profile forbids mount(2); no effect where there is none
#   -v /data:/data:ro                     the dataset *and* the store that its links lead to, at the paths the links say
#
# docs/containers.md has the rest: training inside, one mount for several containers, Compose, Kubernetes.
# Targets: `runtime` (the last, so the default) and `test` (with TensorFlow and the tests; see scripts/test-docker).

ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS base
# fuse3: fusermount3, for users other than root. libfuse2: for --backend fusepy.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends fuse3 libfuse2 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && useradd --create-home --uid 1000 symfuse \
 && mkdir /mnt/clean && chown symfuse /mnt/clean
ENV PATH=/opt/symfuse/bin:$PATH PYTHONDONTWRITEBYTECODE=1

# What symfuse needs, apart from symfuse: a change of the code does not install it again.
FROM base AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip stays in an environment of its own, which is not part of the image. Dependency groups came with pip 25.1.
RUN python3 -m venv /pip && /pip/bin/pip install --quiet 'pip>=25.1' 'hatchling>=1.25' \
 && python3 -m venv --without-pip /opt/symfuse
WORKDIR /src
COPY pyproject.toml ./
RUN python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > /requirements.txt \
 && /pip/bin/pip --python /opt/symfuse/bin/python install --quiet --requirement /requirements.txt

# symfuse itself, below /code as it will lie below /.
FROM dependencies AS code
COPY README.md LICENSE ./
COPY symfuse symfuse
RUN /pip/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /pip/bin/pip --python /opt/symfuse/bin/python install --quiet --no-deps --no-compile --root /code /wheels/*.whl

FROM dependencies AS test
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends rsync procps linux-libc-dev \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# There is a tensorflow-cpu, half the download, for x86-64 only.
RUN case $(uname -m) in x86_64) tensorflow=keras-cpu ;; *) tensorflow=keras ;; esac \
 && /pip/bin/pip --python /opt/symfuse/bin/python install --quiet --group test --group "$tensorflow"
ENV TF_CPP_MIN_LOG_LEVEL=2 TF_ENABLE_ONEDNN_OPTS=0
COPY --from=code /code/ /
COPY . .
ENTRYPOINT []
CMD ["python", "-m", "pytest", "--require-fuse"]

FROM base AS runtime
LABEL org.opencontainers.image.title="symfuse" \
      org.opencontainers.image.description="An image dataset full of symlinks, mounted as a clean tree of regular files" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.1.0"
COPY --from=dependencies /opt/symfuse /opt/symfuse
COPY --from=code /code/ /
# `symfuse run` hands the signal to its command and unmounts when that has ended; `symfuse mount -f` unmounts.
STOPSIGNAL SIGTERM
ENTRYPOINT ["symfuse"]
CMD ["--help"]
