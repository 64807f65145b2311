#!/bin/bash
# User instructions that the scheduler spends on one task: it runs under valgrind's callgrind while the workers run as
# they are, on graphs of two sizes; the difference of the counts by the difference of the sizes leaves out what a graph
# costs that has no tasks. Counted from the first word of the graph until all of it is done. Callgrind counts the same
# on a busy machine as on an idle one, but for what depends on how messages happen to be grouped: under it the
# scheduler is slow and the groups are large, so these are figures of full load, and for a chain of one step a message.
#
#   ./benches/instructions.sh [--kinds "tasks chain layers"] [--small N] [--large N] [--workers W] [--program JOBQ]
#
# Needs valgrind. It builds a release unless it is given a program, and keeps what callgrind wrote below
# target/instructions, for callgrind_annotate. Everything else is temporary.
set -euo pipefail
cd "$(dirname "$0")/.."

kinds="tasks chain layers"
small=5000
large=25000
workers=2
program=
while [[ $# -gt 0 ]]; do
    case $1 in
    --kinds) kinds=$2 ;;
    --small) small=$2 ;;
    --large) large=$2 ;;
    --workers) workers=$2 ;;
    --program) program=$(readlink -f "$2") ;;
    *)
        echo "instructions.sh: unknown option $1" >&2
        exit 2
        ;;
    esac
    shift 2
done
command -v valgrind >/dev/null || { echo "instructions.sh: valgrind is missing" >&2; exit 1; }

target=${CARGO_TARGET_DIR:-target}
if [[ -z $program ]]; then
    cargo build --release --bins >&2
    program=$(readlink -f "$target/release/jobq")
fi
mkdir -p "$target/instructions"
target=$(readlink -f "$target/instructions")

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
mkdir "$room/bin"
# A program called jq starts the jobq beside it: this one, which takes the scheduler, and only that, through callgrind.
cp "$program" "$room/bin/jq"
cat >"$room/bin/jobq" <<WRAPPER
#!/bin/bash
if [[ \${1:-} == scheduler ]]; then
    exec valgrind --quiet --tool=callgrind --callgrind-out-file="$room/out" "$program" "\$@"
fi
exec "$program" "\$@"
WRAPPER
# Counts begin at the first mark, and are written at the second.
cat >"$room/bin/probe" <<'PROBE'
#!/bin/bash
case $1 in
begin) exec callgrind_control --zero "$2" >/dev/null 2>&1 ;;
end) exec callgrind_control --dump=timed "$2" >/dev/null 2>&1 ;;
esac
PROBE
chmod +x "$room/bin/jobq" "$room/bin/probe"

# One run; prints how many instructions it took.
count() {
    local kind=$1 tasks=$2
    rm -f "$room"/out*
    XDG_STATE_HOME=$room/state "$room/bin/jq" bench "$kind" --quiet --json --repeat 1 --count "$tasks" \
        --workers "$workers" --probe "$room/bin/probe" >"$room/report.json"
    local out=$target/callgrind.$kind.$tasks
    mv "$(grep -l 'Trigger: .*timed' "$room"/out.* | tail -1)" "$out"
    sed -n 's/^\(summary\|totals\): //p' "$out" | tail -1
}

for kind in $kinds; do
    few=$(count "$kind" "$small")
    many=$(count "$kind" "$large")
    echo "$kind: $(((many - few) / (large - small))) instructions a task ($small tasks: $few, $large tasks: $many)"
done
echo "callgrind_annotate $target/callgrind.KIND.N shows where they go"
