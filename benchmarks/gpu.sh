#!/usr/bin/env bash
# All that a borrowed GPU is asked for, in one command that ends by itself: tests, benchmarks, a study. Needs no network and
# installs nothing outside of OUT: on a machine with torch, triton and timm the other packages may be carried as wheels.
#
#   benchmarks/gpu.sh --collect FOLDER      here: wheels for Python 3.12 (or PYTHON_VERSION), and Fashion-MNIST if it was
#                                           fetched (noah fetch fashion-mnist): together under 45 MB
#   benchmarks/gpu.sh OUT [FOLDER]          there: at most eight files in OUT, of which report.md is the one to read
#
# SECONDS_LEFT (540): when it has to be over. DEVICE=cpu SCALE=small rehearse it anywhere.
set -euo pipefail
PYTHON=${PYTHON:-python3}
HERE=$(cd "$(dirname "$0")/.." && pwd)
PACKAGES="pydantic pydantic-core annotated-types typing-inspection webdataset braceexpand fsspec statsmodels patsy timm"

if [ "${1:-}" = --collect ]; then
  for name in $PACKAGES; do
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest "$2" "$(
        grep -i "^$name==" "$HERE/requirements.lock" || grep -i "^${name/-/_}==" "$HERE/requirements.lock")"
  done
  tar -cJf "$2/digits.tar.xz" -C "$HERE" data/digits
  if [ -d "$HERE/downloads/fashion-mnist" ]; then
    tar -cJf "$2/fashion-mnist.tar.xz" --exclude="*.gz" -C "$HERE/downloads" fashion-mnist
  fi
  du -sh "$2"
  exit
fi
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
if [ -n "${2:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$WORK/site" "$2"/*.whl
  [ -d "$HERE/data/digits" ] || tar -xJf "$2/digits.tar.xz" -C "$HERE"
  if [ -f "$2/fashion-mnist.tar.xz" ]; then
    mkdir -p "$WORK/downloads"
    tar -xJf "$2/fashion-mnist.tar.xz" -C "$WORK/downloads"
  fi
fi
export PYTHONPATH="$HERE/src:$WORK/site${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" "$HERE/benchmarks/gpu.py" "$HERE" "$OUT" "$WORK"
