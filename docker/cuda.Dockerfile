# NVIDIA GPUs: docker build -f docker/cuda.Dockerfile -t mtmamba .
#              docker run --rm --gpus all mtmamba                              # says what works
#              docker run --rm --gpus all --ipc host -v "$PWD:/work" mtmamba train experiment=nyud_mtmamba data.root=/work/NYUDv2
# PyTorch brings the CUDA libraries; the machine needs NVIDIA's driver and container toolkit.
# 3.12: balancing=nash_mtl needs ecos, which has no wheel for 3.13.
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/mtmamba \
    && /opt/mtmamba/bin/pip install --no-cache-dir -c constraints.txt '.[balancing,export,hub,lite,lora,prepare,video]'

FROM python:3.12-slim
# Triton compiles the launchers of its kernels with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/mtmamba /opt/mtmamba
ENV PATH=/opt/mtmamba/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home --uid 1000 mtmamba && install -d -o mtmamba /work
USER 1000
WORKDIR /work
ENTRYPOINT ["mtmamba"]
CMD ["doctor"]
