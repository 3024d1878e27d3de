#!/usr/bin/env bash
# Builds, checks, times, and prints a table last, in under nine minutes: on a GPU where there is one, else on the CPU
# at reduced size.
#
#   benchmarks/gpu.sh [DATA_DIR [WHEELS]]
#
# DATA_DIR holds CIFAR-10; where it is not there, noise of its size is trained on, and digits are attacked. WHEELS is a
# folder of wheels for a machine without a network that has PyTorch; without it, the environment in .venv is used.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-data}
python=.venv/bin/python
if [ -n "${2:-}" ]; then
    site=$(mktemp -d)
    python=python3
    $python -m pip install -q --no-index --no-deps --no-compile --target "$site" "$2"/*.whl
    export PYTHONPATH=$site:$PWD
elif [ ! -x $python ]; then
    make .venv/installed
fi
parts="step pairs data epoch boundary packing autoattack"
made_up=
if [ ! -d "$data/CIFAR10" ] && [ ! -d "$data/cifar-10-batches-py" ]; then
    made_up=--made_up_images
fi

$python -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
# What a fast path must not change: the published numbers, and one step of the loop against the same step by hand.
timeout 120 $python -m pytest -q -p no:cacheprovider tests/test_models.py tests/test_losses.py tests/test_training.py \
    -k "golden or published or folded or by_hand or total_is or TestWork" || echo "the check failed"
if $python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    exec $python benchmarks/performance.py --data_dir="$data" $made_up --parts $parts --rounds=5 --attack_images=1000 \
        --boundary_alone=10 --minutes=4
fi
exec $python benchmarks/performance.py --data_dir="$data" $made_up --parts $parts --rounds=3 --threads=1 \
    --attack_images=16 --boundary_alone=3 --minutes=3
