#!/bin/bash
#SBATCH --job-name=jq3f9a1c7
#SBATCH --comment=winds
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --time=08:00:00
#SBATCH --dependency=after:4711
#SBATCH --chdir=/home/sci/project
#SBATCH --output=/home/sci/.local/state/jobq/winds/allocations/7.log
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --export=NONE
# Nothing of the submitting shell leaks in (--export=NONE); what srun starts sees this script's environment.
export SLURM_EXPORT_ENV=ALL
cd '/home/sci/project' || exit 1
exec '/opt/jobq/bin/jobq' 'worker' '--cluster' '/home/sci/.local/state/jobq/winds'
