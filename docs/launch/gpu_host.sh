#!/bin/bash
# One host with several GPUs: one process sees them all, nothing needs to be said.
#   docs/launch/gpu_host.sh clip --size paper
# Several hosts without a scheduler: the same command on each, with the address of the first and its own number.
#   COORDINATOR=10.0.0.1:8476 HOSTS=2 HOST=0 docs/launch/gpu_host.sh clip --size paper
set -euo pipefail
flags=()
if [ -n "${COORDINATOR:-}" ]; then
  flags=(--coordinator "$COORDINATOR" --processes "${HOSTS:?how many hosts}" --process-id "${HOST:?which one, from 0}")
fi
exec .venv/bin/python -m experiments.train "$@" --workdir "${WORKDIR:-runs/$1}" "${flags[@]}"
