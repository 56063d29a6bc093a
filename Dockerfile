# The project in a container; see docs/troubleshooting.md for building and running it.
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git libgomp1 && rm -rf /var/lib/apt/lists/*
WORKDIR /speech2image
COPY . .
# cpu: PyTorch's own index of builds without CUDA; empty: CUDA (run with --gpus all)
ARG TORCH=https://download.pytorch.org/whl/cpu
RUN TORCH="$TORCH" bash scripts/setup.sh
ENV PATH="/speech2image/.venv/bin:$PATH"
EXPOSE 7860
VOLUME ["/speech2image/data", "/speech2image/output"]
CMD ["bash", "scripts/voice.sh", "--host", "0.0.0.0"]
