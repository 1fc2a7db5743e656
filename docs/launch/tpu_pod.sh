#!/bin/bash
# One command for all hosts of a TPU pod slice. Run it where gcloud is set up:
#   TPU=my-pod ZONE=us-central2-b WORKDIR=/mnt/shared/clip docs/launch/tpu_pod.sh clip --size paper
# The repository stands in ~/mmrep on every host, with .venv and jax[tpu] installed; WORKDIR is one folder that all hosts have
# mounted (Filestore, NFS, or a bucket through gcsfuse). The processes find each other.
set -euo pipefail
: "${TPU:?name of the TPU}" "${ZONE:?its zone}" "${WORKDIR:?the run\'s folder, the same for all hosts}"
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command \
  "cd ~/mmrep && .venv/bin/python -m experiments.train $* --workdir $WORKDIR --quiet --no-report"
