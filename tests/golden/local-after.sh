#!/bin/bash
#JOBQ --job-name=jq3f9a1c7
#JOBQ --comment=winds
#JOBQ --slots=1
#JOBQ --time=28800
#JOBQ --after=4711
#JOBQ --chdir=/home/sci/project
#JOBQ --output=/home/sci/.local/state/jobq/winds/allocations/7.log
cd '/home/sci/project' || exit 1
exec '/opt/jobq/bin/jobq' 'worker' '--cluster' '/home/sci/.local/state/jobq/winds'
