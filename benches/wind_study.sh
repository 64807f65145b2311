#!/bin/bash
# CPU of the wind study: xarray against jobq, on this host's threads and on a cluster of 8 workers on the local queue,
# all processes together. Builds a release, makes the sample files (0.8 GB decoded), runs everything in turns, prints.
# The figures that we publish are in docs/evidence:
#   ./benches/wind_study.sh | tee "docs/evidence/$(date +%F)-wind-study.txt"
#
# Needs Python with xarray, netCDF4 and dask: $JOBQ_TEST_PYTHON, else it makes a virtual environment below target/.
# Everything it makes is below target/bench (or $JOBQ_BENCH_DIR). Options go to wind_study.py.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --bins >&2
target=${CARGO_TARGET_DIR:-target}
python=${JOBQ_TEST_PYTHON:-}
if [[ -z $python ]]; then
    python=$target/venv/bin/python
    if ! "$python" -c 'import numpy, netCDF4, h5py, xarray, dask' 2>/dev/null; then
        echo "wind_study.sh: making $target/venv with xarray, netCDF4, h5py and dask" >&2
        python3 -m venv "$target/venv"
        "$python" -m pip install --quiet --disable-pip-version-check numpy netCDF4 h5py xarray dask >&2
    fi
fi
exec "$python" benches/wind_study.py "$target/release/jobq" "${JOBQ_BENCH_DIR:-$target/bench}" "$@"
