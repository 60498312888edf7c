#!/bin/bash
#SBATCH --job-name=icd
#SBATCH --array=1-4
#SBATCH --cpus-per-task=1
#SBATCH --requeue
#SBATCH --open-mode=append
# Runs the jobs of a manifest as a SLURM array, a shard for each task:
#
#     sbatch [--array=1-N] [--gpus=1] examples/engines/slurm.sh JOBS OUT [flags of icd batch]
#
# A task that ran out of time, or whose node failed, goes on where it stopped once it runs again:
# what is finished is skipped. A part of the array is run again with the number of all shards:
#
#     sbatch --array=3,7 --export=ALL,SHARDS=16 examples/engines/slurm.sh JOBS OUT
set -u

[ $# -ge 2 ] || { echo "usage: sbatch slurm.sh JOBS OUT [flags of icd batch]" >&2; exit 2; }
jobs=$1 out=$2
shift 2
icd batch "$jobs" --output-dir "$out" --shard "auto${SHARDS:+/$SHARDS}" "$@"
code=$?

# 75: the machine failed; from 128 on: a signal ended it. Three more tries, perhaps elsewhere.
if [ "$code" -eq 75 ] || [ "$code" -ge 128 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
        echo "exit code $code: task $SLURM_ARRAY_TASK_ID is queued again" >&2
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && exit 0
    fi
fi
exit "$code" # 1: some jobs failed, see OUT/failed-K-of-N.jsonl
