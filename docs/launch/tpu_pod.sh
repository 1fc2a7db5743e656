#!/bin/bash
# One command for all hosts of a TPU pod slice. Run it where gcloud is set up:
#   TPU=my-pod ZONE=us-central2-b WORKDIR=gs://my-bucket/runs/clip docs/launch/tpu_pod.sh clip --size paper
# The repository is in ~/mmrep on every host, with .venv, jax[tpu] and requirements-storage.txt installed; WORKDIR is a bucket's URL, or a
# folder that all hosts have mounted (Filestore, NFS). The processes find each other. docs/scaling.md has the commands before and after.
set -euo pipefail
: "${TPU:?name of the TPU}" "${ZONE:?its zone}" "${WORKDIR:?the run\'s folder, the same for all hosts}"
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command \
  "cd ~/mmrep && .venv/bin/python -m experiments.train $* --workdir $WORKDIR --quiet --no-report"
