#!/usr/bin/env bash
# Pretraining on several machines: sbatch examples/slurm.sh RUN PRESET [--set KEY=VALUE]…
# RUN is a run folder, with its tokens, on a file system that all machines share.
#SBATCH --job-name=codelm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
set -uo pipefail
run=$1 preset=$2
shift 2

# A folder named training/ or serving/ in the current directory must not stand in for codelm's own packages.
export PYTHONSAFEPATH=1
# How long the ranks may take, after SIGTERM, to end the step and write a checkpoint: a little less than --signal leaves.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=270
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 python -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" \
  --rdzv-backend=c10d --rdzv-endpoint="$first:29500" --rdzv-id="$SLURM_JOB_ID" \
  -m -- cli.main train pretrain --run "$run" --preset "$preset" --workers 4 --set pretrain.engine.strategy=fsdp2 "$@" &
ranks=$!

# Shortly before its time is up, the job has a checkpoint written, ends, and comes again to go on from it.
time_is_up=
trap 'time_is_up=1; kill -TERM "$ranks"' TERM
while wait "$ranks"; status=$?; kill -0 "$ranks" 2>/dev/null; do :; done
if [ -n "$time_is_up" ] && [ ! -f "$run/pretrain/manifest.json" ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
