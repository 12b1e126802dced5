# adaptermix on a CPU: everything except vLLM.
#   docker build -t adaptermix . && docker run --rm -v "$PWD:/work" adaptermix merge a b --weight 0.9
# With --build-arg PIP_EXTRA_INDEX_URL=URL, set to PyTorch's index of CPU builds, torch comes without
# CUDA and the image is some gigabytes smaller.
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir "/source[all]"

FROM python:3.12-slim
COPY --from=build /venv /venv
RUN useradd --create-home --uid 1000 adaptermix
USER 1000
WORKDIR /work
ENTRYPOINT ["/venv/bin/adaptermix"]
