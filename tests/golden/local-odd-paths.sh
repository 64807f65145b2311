#!/bin/bash
#JOBQ --job-name=jq3f9a1c7
#JOBQ --comment=a "b" 'c' # d \ é | $HOME
#JOBQ --slots=1
#JOBQ --time=28800
#JOBQ --chdir=/scratch/my project's
#JOBQ --output=/scratch/my logs/100%.log
cd '/scratch/my project'\''s' || exit 1
exec '/opt/jobq/bin/jobq' 'worker' '--cluster' '/home/sci/.local/state/jobq/winds'
