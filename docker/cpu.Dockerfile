# Without a GPU: docker build -f docker/cpu.Dockerfile -t mtmamba --build-arg PIP_EXTRA_INDEX_URL=URL .
#                docker run --rm mtmamba                                       # says what works
#                docker run --rm -v "$PWD:/work" mtmamba predict source=photo.jpg
# URL is PyTorch's index of wheels for CPUs, which pytorch.org names; without it come 4 GB of CUDA libraries.
# 3.12: balancing=nash_mtl needs ecos, which has no wheel for 3.13.
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY . .
RUN python -m venv /opt/mtmamba \
    && /opt/mtmamba/bin/pip install --no-cache-dir -c constraints.txt '.[balancing,export,hub,lite,lora,prepare,video]'

FROM python:3.12-slim
COPY --from=build /opt/mtmamba /opt/mtmamba
ENV PATH=/opt/mtmamba/bin:$PATH
RUN useradd --create-home --uid 1000 mtmamba && install -d -o mtmamba /work
USER 1000
WORKDIR /work
ENTRYPOINT ["mtmamba"]
CMD ["doctor"]
