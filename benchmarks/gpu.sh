#!/usr/bin/env bash
# Checks, times part by part, and prints tables: on a GPU where there is one, else on the CPU at reduced size. A part that
# fails is named and the others go on; what is measured is saved after each part.
#
#   benchmarks/gpu.sh [DATA_DIR [WHEELS]]
#
# DATA_DIR holds CIFAR-10; where it is not there, noise of its size is trained on, and digits are attacked. WHEELS is a
# folder of wheels for a machine without a network that has PyTorch; without it, the environment in .venv is used.
# SAVE is the folder of the tables (results/gpu).
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-data}
save=${SAVE:-results/gpu}
python=.venv/bin/python
if [ -n "${2:-}" ]; then
    site=$(mktemp -d)
    python=python3
    $python -m pip install -q --no-index --no-deps --no-compile --target "$site" "$2"/*.whl
    export PYTHONPATH=$site:$PWD
elif [ ! -x $python ]; then
    make .venv/installed
fi
made_up=
if [ ! -d "$data/CIFAR10" ] && [ ! -d "$data/cifar-10-batches-py" ]; then
    made_up=--made_up_images
fi
failed=0

$python -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
if $python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    export BRAINREG_TEST_GPU=1
    sizes="--rounds=3 --attack_images=1000 --boundary_alone=10 --minutes=4"
    search="--space=cifar10_double --num-samples=16 --gpus-per-trial=0.25 --precision=bfloat16 --epoch-num=5 --phase-duration=1"
else
    sizes="--rounds=3 --threads=1 --attack_images=16 --boundary_alone=3 --minutes=3"
    search="--space=digits_double --num-samples=4 --epoch-num=2"
fi

# One step against the same step by hand; training, pairs, and the verdicts of each attack against the CPU's.
timeout 150 $python -m pytest -q -p no:cacheprovider tests/models tests/method/test_loss.py tests/training tests/test_cuda.py \
    -k "golden or published or folded or by_hand or total_is or cuda or one_batch" || { echo "the check failed"; failed=1; }
$python benchmarks/launches.py || failed=1
$python benchmarks/performance.py --data_dir="$data" $made_up --parts step pairs data epoch packing autoattack boundary \
    $sizes --save="$save/performance.csv" || failed=1
if [ -z "$made_up" ] || [ -z "${BRAINREG_TEST_GPU:-}" ]; then
    folder=$(mktemp -d)
    timeout 240 $python tune_main.py $search --final-attack-seconds=5 --data-dir="$data" --storage-path="$folder" --name=gpu ||
        { echo "the search failed"; failed=1; }
fi
exit $failed
