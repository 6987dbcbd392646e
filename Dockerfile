# One image for every role: a peer, the cutting of shards, the summary. `peer` is its entry point.
#
#   docker build -t next-peer .
#
# Build arguments: BASE, an image with Python 3.11 or newer; EXTRAS, of pyproject.toml; CERT, a certificate
# bundle for pip behind a proxy, by its path below certificates/ in this folder. With wheels in wheels/
# (`pip wheel --wheel-dir wheels '.[datasets,report]' setuptools`) the build needs no network.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG EXTRAS=datasets,report
ARG CERT=
WORKDIR /source
# the brackets make these two folders optional: a pattern may match nothing
COPY pyproject.toml wheel[s] /wheels/
COPY pyproject.toml certificate[s] /certificates/
COPY pyproject.toml README.md LICENSE ./
# first what it needs, then itself: a change of the code does not install everything anew
RUN mkdir -p peer topology && touch peer/__init__.py topology/__init__.py \
    && if ls /wheels/*.whl >/dev/null 2>&1; then printf '[global]\nno-index = true\nfind-links = /wheels\n' >/etc/pip.conf; fi \
    && if [ -n "${CERT}" ]; then export PIP_CERT="/certificates/${CERT}"; fi \
    && python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet 'setuptools>=77' ".${EXTRAS:+[${EXTRAS}]}" \
    # the libraries' own tests: a tenth of the image
    && find /venv/lib -type d -name tests -not -path '*/numpy/*' -prune -exec rm -rf {} + \
    && rm -rf peer topology build ./*.egg-info
COPY topology topology
COPY peer peer
RUN /venv/bin/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --force-reinstall . \
    && /venv/bin/pip uninstall --quiet --yes setuptools pip

FROM ${BASE}
COPY --from=build /venv /venv
ENV PATH=/venv/bin:${PATH}
# Nobody in particular. A volume belongs to the owner of the folder that it is first mounted on, so the
# folders are here already: results, and as many shards and keys as `peer compose` names.
RUN mkdir -p /results && seq 0 511 | sed 's,.*,/shards/& /keys/&,' | xargs mkdir -p /shards/test \
    && chown -R 10001:10001 /results /shards /keys
USER 10001:10001
WORKDIR /results
ENTRYPOINT ["peer"]
CMD ["--help"]
# what counts is the peer's own progress; whose it is says PEER_ID
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["peer", "health", "/results"]
