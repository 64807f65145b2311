#!/bin/bash
#SBATCH --job-name=jq3f9a1c7
#SBATCH --comment=winds
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --time=08:00:00
#SBATCH --chdir=/home/sci/project
#SBATCH --output=/home/sci/.local/state/jobq/winds/allocations/7.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --export=NONE
# Nothing of the submitting shell leaks in (--export=NONE); what srun starts sees this script's environment.
export SLURM_EXPORT_ENV=ALL
cd '/home/sci/project' || exit 1
# With an epilogue the shell stays: it hands signals on to the command and waits for its end.
worker=
signalled=
hand_on() {
    signalled=yes
    [ -z "$worker" ] || kill -s "$1" "$worker" 2> /dev/null
}
trap 'hand_on TERM' TERM
trap 'hand_on INT' INT
trap 'hand_on USR1' USR1
trap 'hand_on CONT' CONT
'/opt/jobq/bin/jobq' 'worker' '--cluster' '/home/sci/.local/state/jobq/winds' &
worker=$!
[ -z "$signalled" ] || kill -s TERM "$worker" 2> /dev/null
code=127
while :; do
    signalled=
    wait "$worker"
    status=$?
    [ "$status" -eq 127 ] || code=$status
    [ -n "$signalled" ] || break
done
trap - TERM INT USR1 CONT
rm -rf "$TMPDIR/jobq"
echo done
exit "$code"
