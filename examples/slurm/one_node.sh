#!/bin/bash
# A search on one node, as long as it takes: before the time is over it ends as by Ctrl-C, and Slurm runs this script again.
#
#   sbatch --export=ALL,NAME=first examples/slurm/one_node.sh --space=cifar10_double --num-samples=80
#
# What follows the script are flags of `brainreg tune`. RESULTS must be a folder that all nodes share.
#SBATCH --job-name=brainreg
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# On a cluster with GPUs, for example: #SBATCH --gpus-per-node=4
set -u

if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
    echo "error: --array: a search runs many trials itself; submit one job for each search, with a NAME of its own" >&2
    exit 2
fi
name=${NAME:-slurm_$SLURM_JOB_ID}
results=${RESULTS:-$SLURM_SUBMIT_DIR/results}

# The signal is for the driver alone (B:): Ray must live until the driver has ended.
brainreg tune "--name=$name" --resume-if-begun "--storage_path=$results" "$@" &
driver=$!
trap 'kill -TERM $driver' TERM
wait $driver
status=$?
while kill -0 $driver 2> /dev/null; do # `wait` ends when the signal comes; the driver ends a little later
    wait $driver
    status=$?
done
if [ "$status" -eq 130 ]; then # interrupted: it goes on in another turn
    echo "$name goes on when Slurm runs job $SLURM_JOB_ID again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
