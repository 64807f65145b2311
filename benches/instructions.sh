#!/bin/bash
# User instructions that the scheduler spends on one task: it runs under valgrind's callgrind while the workers run as
# they are, on graphs of two sizes; the difference of the counts by the difference of the sizes leaves out what a
# scheduler costs that has nothing to do. Callgrind counts the same on a busy machine as on an idle one, but for what
# depends on how messages happen to be grouped.
#
#   ./benches/instructions.sh [--kinds "tasks chain layers"] [--small N] [--large N] [--workers W]
#
# Needs valgrind. It builds a release with symbols below target/instructions, keeps what callgrind wrote there, and
# prints the functions that cost most (callgrind_annotate shows more). Everything else is temporary.
set -euo pipefail
cd "$(dirname "$0")/.."

kinds="tasks chain layers"
small=5000
large=25000
workers=2
while [[ $# -gt 0 ]]; do
    case $1 in
    --kinds) kinds=$2 ;;
    --small) small=$2 ;;
    --large) large=$2 ;;
    --workers) workers=$2 ;;
    *)
        echo "instructions.sh: unknown option $1" >&2
        exit 2
        ;;
    esac
    shift 2
done
command -v valgrind >/dev/null || { echo "instructions.sh: valgrind is missing" >&2; exit 1; }

target=${CARGO_TARGET_DIR:-target}/instructions
CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only \
    cargo build --release --bins --target-dir "$target" >&2
program=$(readlink -f "$target/release/jobq")

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
mkdir "$room/bin"
# A program called jq starts the jobq beside it: this one, which takes the scheduler, and only that, through valgrind.
cp "$program" "$room/bin/jq"
cat >"$room/bin/jobq" <<WRAPPER
#!/bin/bash
if [[ \${1:-} == scheduler ]]; then
    exec valgrind --quiet --tool=callgrind --callgrind-out-file="\$JOBQ_CALLGRIND_OUT.%p" "$program" "\$@"
fi
exec "$program" "\$@"
WRAPPER
chmod +x "$room/bin/jobq"

# One run; prints how many instructions the scheduler took in all.
count() {
    local kind=$1 tasks=$2 out=$target/callgrind.$1.$2
    rm -f "$out".*
    JOBQ_CALLGRIND_OUT=$(readlink -f "$target")/callgrind.$kind.$tasks \
        XDG_STATE_HOME=$room/state \
        "$room/bin/jq" bench "$kind" --json --repeat 1 --count "$tasks" --workers "$workers" >"$room/report.json"
    # Of the two schedulers that a repeat has, the second one ran the tasks.
    local last
    last=$(ls -tr "$out".* | tail -1)
    mv "$last" "$out"
    rm -f "$out".*
    sed -n 's/^\(summary\|totals\): //p' "$out" | tail -1
}

for kind in $kinds; do
    few=$(count "$kind" "$small")
    many=$(count "$kind" "$large")
    echo "$kind: $(((many - few) / (large - small))) instructions a task ($small tasks: $few, $large tasks: $many)"
done
echo "callgrind_annotate $target/callgrind.KIND.N shows where they go"
