#!/usr/bin/env bash
# On a machine with a GPU, in one call: bench/on_gpu.sh OUT [WHEELS [ARGUMENT OF bench.gpu]...]
# Installs what lies in the folder WHEELS ('' for none), measures by bench/gpu.py, then runs the tests that wait for a
# GPU. Results go to OUT as they come: a call that is cut off leaves what it had. Ends with 1 where either failed, with 2
# where something is missing. In ten minutes: bench/on_gpu.sh OUT WHEELS --shapes small --grid 150 --budget 400
set -uo pipefail
cd "$(dirname "$0")/.."
out=$1 wheels=${2:-}
shift $(($# > 1 ? 2 : 1))
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if [ -n "$wheels" ]; then
  # beside what is installed, and nothing of that is changed
  site=$(mktemp -d)
  python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl || exit 2
  export PYTHONPATH=$PWD:$site
fi
say() { printf '\n=== %s (%s s)\n' "$1" "$SECONDS"; }

say "what is needed"
python3 - <<'END' || exit 2
import importlib
import sys

NEEDED = """torch transformers accelerate peft trl datasets safetensors tokenizers jinja2 pydantic orjson blake3 pynvml
typing_extensions pytest"""
missing = []
for name in NEEDED.split():
    try:
        importlib.import_module(name)
    except Exception as problem:  # one that is broken is as bad as one that is not there
        missing.append(f"{name} ({type(problem).__name__}: {str(problem).strip()[:100]})")
if missing:
    sys.exit(f"Nothing was measured, for these cannot be imported: {'; '.join(missing)}.")
END

say "measurements"
python3 -m bench.gpu --out "$out/gpu.jsonl" "$@" 2>&1 | tee "$out/gpu.txt"
measured=${PIPESTATUS[0]}
say "tests"
# conftest.py wants all that the loop needs; and other versions than ours warn of other things
python3 -m pytest -v -p no:cacheprovider --noconftest -o filterwarnings=default -rs tests/integration/test_gpu.py \
  2>&1 | tee "$out/tests.txt"
tested=${PIPESTATUS[0]}
say "measurements ended with $measured, tests with $tested"
if [ "$measured" != 0 ] || [ "$tested" != 0 ]; then exit 1; fi
