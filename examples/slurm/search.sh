#!/bin/bash
# A search, as long as it takes: before the time is over it ends as by Ctrl-C, and Slurm runs this script again.
#
#   sbatch --export=ALL,NAME=first examples/slurm/search.sh --space=cifar10_double --num-samples=80
#
# What follows the script are flags of `brainreg tune`. RESULTS is a folder that all nodes share. With --nodes=4, say, all
# share the home folder, too: Ray's token lies there.
#SBATCH --job-name=brainreg
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
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
set -- "--name=$name" --resume-if-begun "--storage_path=${RESULTS:-$SLURM_SUBMIT_DIR/results}" "$@"

if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then # Ray's head on this node, and the other nodes joined to it
    head=$SLURMD_NODENAME
    address=$(hostname):$((20000 + SLURM_JOB_ID % 20000))
    export RAY_AUTH_MODE=token
    [ -s "$HOME/.ray/auth_token" ] || ray get-auth-token --generate > /dev/null
    on_node=(srun --overlap --ntasks=1 --nodes=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")
    start=(ray start --num-cpus="$SLURM_CPUS_PER_TASK" --block)
    "${on_node[@]}" -w "$head" "${start[@]}" --head --port="${address#*:}" &
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vx "$head"); do
        "${on_node[@]}" -w "$node" "${start[@]}" --address="$address" &
    done
    patience=$((SECONDS + 180))
    while [ "$SECONDS" -lt "$patience" ]; do # until all nodes are there
        [ "$(ray status --address="$address" 2> /dev/null | grep -c ' node_')" -ge "$SLURM_JOB_NUM_NODES" ] && break
        sleep 2
    done
    set -- "$@" "--address=$address"
fi

# The signal is for the driver alone (B:): Ray must live until the driver has ended.
brainreg tune "$@" &
driver=$!
trap 'kill -TERM $driver' TERM
wait $driver
status=$?
while kill -0 $driver 2> /dev/null; do # `wait` ends when the signal comes; the driver ends a little later
    wait $driver
    status=$?
done
state=$(squeue --noheader --job="$SLURM_JOB_ID" --format=%T)
if [ "$status" -eq 130 ] && [ "$state" != COMPLETING ]; then # interrupted, and not cancelled: it goes on in another turn
    echo "$name goes on when Slurm runs job $SLURM_JOB_ID again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
