#!/bin/bash
# Two machines with 8 GPUs each under Slurm, policy and reference sharded over all of them:
#   sbatch examples/launch/slurm.sh examples/paper/llama3_8b_ganpo_dpo.yaml
# Slurm sends SIGTERM before the time is up, and requeues: --resume continues from the newest checkpoint that verifies,
# and starts from the beginning where there is none.
#SBATCH --job-name=ganpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

export PYTHONSAFEPATH=1  # nothing is imported from the working folder
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
  -m ganpo_core train "$@" \
  training.parallelism=fsdp2 training.gradient_accumulation_steps=8 --resume
