# TensorRT 8.6 with its headers, CUDA 12.2, Ubuntu 22.04 and CPython 3.10, the newest that TensorRT 8.6 has bindings for.
FROM nvcr.io/nvidia/tensorrt:23.10-py3

# Not pinned: Ubuntu's archive keeps only the newest version of a package.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake curl g++ make python-is-python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

# scripts/launch.sh mounts the project here. CMake notes the path, so that `make` works in the container too.
WORKDIR /workspace/bert

# TensorRT itself stays the image's, whose headers the extension is built with. One call, so that pip finds versions
# that suit all.
COPY requirements*.txt ./
RUN sed --in-place '/^tensorrt==/d' requirements-gpu.txt \
 && python3 -m pip install --no-cache-dir -r requirements.txt -r requirements-convert.txt -r requirements-notebook.txt \
      -r requirements-report.txt -r requirements-torch.txt -r requirements-dev.txt -r requirements-gpu.txt

COPY CMakeLists.txt ./
COPY infer_c infer_c
RUN cmake -S . -B build -DPYTHON_EXECUTABLE="$(command -v python3)" \
 && cmake --build build --parallel

ARG USER_ID=1000
ARG GROUP_ID=1000
RUN groupadd --non-unique --gid "$GROUP_ID" bert \
 && useradd --non-unique --no-log-init --uid "$USER_ID" --gid "$GROUP_ID" --create-home --shell /bin/bash bert \
 && mkdir .venv \
 && chown -R "$USER_ID:$GROUP_ID" /workspace/bert
USER $USER_ID:$GROUP_ID

EXPOSE 8888
CMD ["bash"]
