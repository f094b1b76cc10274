# The pinned packages and `rs-cache demo`. On CPUs by default:
#   docker build -t regionspot-cache . && docker run --rm -v "$PWD/rs-cache-data:/data/rs-cache-data" regionspot-cache
# BASE: an image with Python 3.11 to 3.13 and venv, such as one with CUDA's libraries and compiler.
# TORCH_INDEX: where torch and torchvision come from instead of the usual registry, such as the index of builds without CUDA.
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=

WORKDIR /app
# Bytecode is compiled now: the user below may not write it, and would compile torch at every start.
ENV PYTHONUNBUFFERED=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 VIRTUAL_ENV=/app/.venv PATH=/app/.venv/bin:$PATH
RUN python3 -m venv .venv && pip install --no-cache-dir --disable-pip-version-check uv==0.13.8

# Packages before the code, so that a change of the code builds in seconds. From another index torch and torchvision
# alone are taken, as pinned, and the packages that only builds with CUDA need are left out.
COPY requirements.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      grep -E '^(torch|torchvision)==' requirements.txt > torch.txt \
      && uv pip install --no-deps --index-url "$TORCH_INDEX" -r torch.txt \
      && grep -vE '^(torch|torchvision|triton|nvidia-|cuda-)' requirements.txt > others.txt \
      && uv pip install -r others.txt; \
    else uv pip install -r requirements.txt; fi

COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY regionspot_cache regionspot_cache
COPY pipeline pipeline
RUN uv pip install --no-deps .

RUN useradd --create-home cache && mkdir -p /data && chown cache /data
USER cache
WORKDIR /data
CMD ["rs-cache", "demo"]
