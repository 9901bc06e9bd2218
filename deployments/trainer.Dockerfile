# The image of training containers, for people who have a registry. Without one: academy trainer --make-image.
#
#   docker build -f deployments/trainer.Dockerfile -t academy-trainer:cpu .
#   docker build -f deployments/trainer.Dockerfile -t academy-trainer:gpu \
#       --build-arg BASE=unsloth/unsloth@sha256:... --build-arg STACK=there .
#
# Then ACADEMY_TRAINING_BACKEND=container ACADEMY_TRAINING_IMAGE=academy-trainer:cpu. Name a base by its digest: what a
# tag means today may not train tomorrow. The default below is a tag: no registry was reachable to verify a digest. The Academy's own code is mounted when a training runs, and not copied.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
# install: the training stack at the versions that were run together; there: the base has one, with unsloth
ARG STACK=install
# for instance --index-url of an index that has torch without CUDA: several gigabytes less
ARG PIP_ARGUMENTS=
USER root
COPY constraints.txt /tmp/constraints.txt
RUN if [ "$STACK" = install ]; then stack="torch transformers trl peft datasets accelerate safetensors tokenizers numpy"; fi; \
    python3 -m pip install --no-cache-dir -c /tmp/constraints.txt $PIP_ARGUMENTS \
    $stack pydantic orjson blake3 jinja2 cryptography typing-extensions packaging nvidia-ml-py && rm /tmp/constraints.txt
USER 65534
ENTRYPOINT []
