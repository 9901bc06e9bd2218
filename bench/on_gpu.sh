#!/usr/bin/env bash
# On a machine with a GPU, in one call: bench/on_gpu.sh OUT [WHEELS]
# Installs what lies in the folder WHEELS, runs the tests that wait for a GPU, then bench/gpu.py. Results go to OUT.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1 wheels=${2:-}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if [ -n "$wheels" ]; then python3 -m pip install --quiet --no-index --no-deps "$wheels"/*.whl; fi
python3 -c "
from academy.habitat.hardware import take_inventory
print(take_inventory(engine=False).model_dump_json(indent=1))" | tee "$out/inventory.json"
python3 -m pytest -p no:cacheprovider -rs tests/integration/test_gpu.py 2>&1 | tee "$out/tests.txt"
tests=${PIPESTATUS[0]}
python3 -m bench.gpu --out "$out/gpu.json" 2>&1 | tee "$out/gpu.txt"
exit "$tests"
