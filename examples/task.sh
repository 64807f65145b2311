#!/bin/sh
# A task to try `jq map` with. From the top of the source tree:
#   jq map --output 'sum.{}' ./examples/task.sh {} {out} ::: $(seq 20)
# Sums the numbers up to its first argument, and writes the sum to the file that is its second (the standard
# output without one).
set -eu
count=$1
out=${2:-/dev/stdout}

sum=0
i=0
while [ "$i" -lt "$count" ]; do
    i=$((i + 1))
    sum=$((sum + i))
done
echo "$sum" >"$out"
