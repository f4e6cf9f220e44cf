#!/bin/bash
# On each machine, from the project's folder: MACHINES=2 GPUS=4 FIRST=host1:29400 docs/cluster/torchrun.sh stage=dynamics size=base
set -euo pipefail

. .venv/bin/activate
torchrun --nnodes="$MACHINES" --nproc_per_node="$GPUS" --rdzv_backend=c10d --rdzv_endpoint="$FIRST" --rdzv_id=tinyworlds \
    train.py trainer=ddp trainer.num_nodes="$MACHINES" trainer.devices="$GPUS" resume=auto "$@"
