#!/bin/bash
# What published datasets cost: publishing 64 sample files lazily, listing and opening them, and the bytes of state a
# file. Builds a release, makes the files below target/bench (or $JOBQ_BENCH_DIR), and prints the median and the range
# of each command's wall time over many runs, process start included. Figures that we publish are in docs/evidence:
#   ./benches/publish.sh | tee "docs/evidence/$(date +%F)-publish.txt"
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${JOBQ_BENCH_PROGRAM:-} ]]; then cargo build --release --bin jobq >&2; fi
program=${JOBQ_BENCH_PROGRAM:-${CARGO_TARGET_DIR:-target}/release/jobq}
dir=${JOBQ_BENCH_DIR:-${CARGO_TARGET_DIR:-target}/bench}/publish
runs=${1:-21}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
export XDG_STATE_HOME=$dir/state
if [[ ! -e $dir/winds/wind_063.nc ]]; then "$program" example-data "$dir/winds" --files 64 --quiet >/dev/null; fi

# Prints the median and the range of a command's milliseconds.
measure() {
    local what=$1 start end all=()
    shift
    for ((i = 0; i < runs; i++)); do
        start=$(date +%s%N)
        "$@" >/dev/null
        end=$(date +%s%N)
        all+=($(((end - start) / 10000)))
    done
    printf '%s\n' "${all[@]}" | sort -n | awk -v what="$what" '
        { v[NR] = $1 / 100 }
        END { printf "%-34s %7.2f ms (%.2f .. %.2f, %d runs)\n", what, v[int((NR + 1) / 2)], v[1], v[NR], NR }'
}

measure "version (a process that does nothing)" "$program" version
measure "publish 64 files, lazy" "$program" publish wind --in "$dir"/winds/*.nc --overwrite --quiet
measure "datasets wind" "$program" datasets wind
measure "open dataset:wind" "$program" open dataset:wind
measure "open 64 files" "$program" open "$dir"/winds/*.nc
printf '%-34s %7d bytes\n' "state a file" $(($(du -sb "$dir/state/jobq/default/datasets/wind" | cut -f1) / 64))
