#!/bin/bash
# The tests that take too long for every change: many seeds of the simulated cluster, and whole clusters with
# things killed in them, again and again. What it prints is kept, dated, in docs/evidence/.
#
#   tests/long.sh [SEEDS [ROUNDS]]      3000 seeds and 20 rounds by default: about an hour on 2 cores
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${1:-3000}
rounds=${2:-20}
log=docs/evidence/$(date +%F)-long.txt
mkdir -p docs/evidence
exec > >(tee "$log") 2>&1

say() { printf '\n== %s\n' "$*"; }

say "$(date -u +%FT%TZ), commit $(git rev-parse --short HEAD), $(nproc) cores"
failed=0

say "the simulated cluster, $seeds seeds"
JOBQ_SIM_SEEDS=$seeds cargo test --release --quiet --test simulation -- --nocapture || failed=1

for round in $(seq "$rounds"); do
    say "killing workers, supervisors and schedulers on the embedded queue, round $round of $rounds"
    cargo test --release --quiet --test cluster_local || failed=1
done

say "killing the scheduler under load 200 times, with 20,000 tasks"
JOBQ_TEST_RESTART_ROUNDS=200 JOBQ_TEST_RESTART_TASKS=20000 \
    cargo test --release --quiet --test cluster_local -- --exact restarts::killed_at_random_moments_nothing_is_lost || failed=1

if command -v slurmctld >/dev/null || [[ -x /usr/sbin/slurmctld ]]; then
    for round in $(seq "$((rounds / 4 + 1))"); do
        say "killing jobs, nodes and workers on Slurm, round $round of $((rounds / 4 + 1))"
        PATH=$PATH:/usr/sbin cargo test --release --quiet --test cluster_slurm || failed=1
    done
else
    say "skipped: slurmctld is not installed"
fi

say "done, $([[ $failed = 0 ]] && echo 'all well' || echo 'WITH FAILURES')"
exit "$failed"
