#!/bin/bash
# A search on several nodes: Ray on each, the driver on the first. Not tried on more than one node.
#
#   sbatch --export=ALL,NAME=first examples/slurm/several_nodes.sh --space=cifar10_double --num-samples=80
#
# What follows the script are flags of `brainreg tune`. RESULTS and the home folder, which holds Ray's token, must be shared
# by all nodes.
#SBATCH --job-name=brainreg
#SBATCH --nodes=4
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
results=${RESULTS:-$SLURM_SUBMIT_DIR/results}
port=${PORT:-$((20000 + SLURM_JOB_ID % 20000))}
head=$(hostname)

export RAY_AUTH_MODE=token
[ -s "$HOME/.ray/auth_token" ] || ray get-auth-token --generate > /dev/null

on_node=(srun --overlap --ntasks=1 --nodes=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")
"${on_node[@]}" -w "$head" ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vx "$head"); do
    "${on_node[@]}" -w "$node" ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
done
for _ in $(seq 60); do # until all nodes are there
    [ "$(ray list nodes --address="$head:$port" 2> /dev/null | grep -c ALIVE)" -ge "$SLURM_JOB_NUM_NODES" ] && break
    sleep 2
done

brainreg tune "--name=$name" --resume-if-begun "--storage_path=$results" "--address=$head:$port" "$@" &
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
