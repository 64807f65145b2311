#!/bin/bash
# Runs all tests. First it brings what they need, and says what it does:
#   - Debian packages: Slurm, the JSON jq, netCDF's ncdump, Python's venv (as root and only if one is missing);
#   - Python packages in a virtual environment of its own, below target/.
# A plain user who has the packages needs no more. What is missing makes tests skip, and they say so; where
# nothing may be skipped (CI is set), it is an error.
#
# Arguments go to `cargo test`:  ./tests/run.sh --test names
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'tests/run.sh: %s\n' "$*" >&2; }

require_all=${JOBQ_TEST_REQUIRE_ALL:-}
if [[ -n ${CI:-} && ${CI:-} != false ]]; then require_all=1; fi

# Slurm's daemons are in /usr/sbin, which a plain user's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin
export PATH

# A program and the Debian package that has it.
needed=(
    slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge
    jq:jq ncdump:netcdf-bin python3:python3
)

missing_packages() {
    local pair program
    for pair in "${needed[@]}"; do
        program=${pair%%:*}
        # Our own jq, earlier on PATH, is not the JSON jq.
        if [[ $program == jq ]]; then
            [[ $(command jq --version 2>/dev/null) == jq-* ]] || echo "${pair#*:}"
        else
            command -v "$program" >/dev/null || echo "${pair#*:}"
        fi
    done
    # Slurm's authentication and scheduling plugins are a package of their own.
    compgen -G '/usr/lib/*/slurm*/auth_munge.so' >/dev/null || echo slurm-wlm-basic-plugins
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages | sort -u)
    if [[ ${#missing[@]} -eq 0 ]]; then
        say "Slurm, jq, ncdump and python3 are here"
        return
    fi
    if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
        say "installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
        return
    fi
    say "missing: ${missing[*]} (as root: apt-get install --no-install-recommends ${missing[*]})"
    if [[ -n $require_all ]]; then exit 1; fi
}

# Prints the path of a Python that has the packages; nothing where there is none.
prepare_python() {
    local venv modules='import numpy, netCDF4, h5py, xarray, zarr'
    venv=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/venv
    if "$venv/bin/python" -c "$modules" 2>/dev/null; then
        say "the Python packages are in $venv"
    else
        say "making $venv with numpy, netCDF4, h5py, xarray and zarr"
        if ! { python3 -m venv --clear "$venv" &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy netCDF4 h5py xarray zarr &&
            "$venv/bin/python" -c "$modules"; } >&2; then
            say "the Python packages can't be installed"
            if [[ -n $require_all ]]; then return 1; fi
            return 0
        fi
    fi
    echo "$venv/bin/python"
}

install_packages
python=$(prepare_python)
if [[ -n $python ]]; then export JOBQ_TEST_PYTHON=$python; fi
if [[ -n $require_all ]]; then export JOBQ_TEST_REQUIRE_ALL=1; fi

say "cargo test $*"
exec cargo test "$@"
