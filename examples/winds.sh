#!/bin/sh
# The whole main job once, on this host: sample wind files, a cluster of 8 workers on the built-in queue, wind
# speed and direction and their variance over time, and the result.
#
# Needs a Rust toolchain; nothing of yours is touched. Everything it makes is below target/winds (or
# $JOBQ_EXAMPLE_DIR), the cluster's state too. Can be run again.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

if ! command -v cargo >/dev/null 2>&1; then
    echo "winds.sh: cargo is not on PATH; a Rust toolchain is needed to build jobq" >&2
    exit 1
fi

say "Building (a few minutes the first time)"
cargo build --release --bins
target=${CARGO_TARGET_DIR:-target}
bin=$(cd "$target/release" && pwd)
mkdir -p "${JOBQ_EXAMPLE_DIR:-$target/winds}"
work=$(cd "${JOBQ_EXAMPLE_DIR:-$target/winds}" && pwd)

# A cluster of our own, with its state beside the data: one that you have is not in the way.
PATH=$bin:$PATH
JOBQ_CLUSTER=winds
JOBQ_CFG_CLUSTER__STATE_DIR=$work/state
export PATH JOBQ_CLUSTER JOBQ_CFG_CLUSTER__STATE_DIR

bring_down() {
    code=$?
    trap - EXIT INT TERM
    say "Tearing down"
    jq down --purge || echo "winds.sh: jq down failed; see $work/state" >&2
    exit "$code"
}
trap bring_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -d "$work/state" ]; then
    say "Clearing what an earlier run left"
    jq down --purge
fi
rm -rf "$work/data" "$work/winds.nc"

say "Making sample files: jq example-data"
jq example-data "$work/data"
ls -l "$work/data"

say "Bringing up 8 workers: jq up --queue local --workers 8 --wait"
jq up --queue local --workers 8 --wait --timeout 2m

say "What is in the files, from their metadata alone: jq open"
jq open "$work"/data/*.nc

say "Computing: jq compute"
jq compute \
    'speed = wind_speed(x_wind, y_wind)' \
    'direction = wind_direction(x_wind, y_wind)' \
    'speed_var = var(speed, time, ddof=1)' \
    'direction_var = var(direction, time, ddof=1)' \
    --in "$work"/data/*.nc --out "$work/winds.nc"

say "The cluster: jq status"
jq status

say "The result: jq open $work/winds.nc"
jq open "$work/winds.nc"
if command -v ncdump >/dev/null 2>&1; then
    say "The same as ncdump sees it"
    ncdump -h "$work/winds.nc"
fi
