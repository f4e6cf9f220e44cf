#!/bin/bash
# On every machine, with the same MASTER_ADDR: NODES=2 NODE=0 GPUS=8 MASTER_ADDR=10.0.0.1 docs/cluster/torchrun.sh [options]
set -euo pipefail

torchrun --nnodes="$NODES" --node-rank="$NODE" --nproc-per-node="$GPUS" \
    --master-addr="$MASTER_ADDR" --master-port="${MASTER_PORT:-29500}" \
    train.py trainer=ddp trainer.num_nodes="$NODES" trainer.devices="$GPUS" resume=auto "$@"
