# adaptermix on a CPU: everything except vLLM.
#   docker build -t adaptermix . && docker run --rm -v "$PWD:/work" adaptermix merge a b --weight 0.9
FROM python:3.12-slim AS build
COPY . /source
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
       "/source[all]"

FROM python:3.12-slim
COPY --from=build /venv /venv
RUN useradd --create-home adaptermix
USER adaptermix
WORKDIR /work
ENTRYPOINT ["/venv/bin/adaptermix"]
