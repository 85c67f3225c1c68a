# Shared by the scripts beside it; to be sourced from bash, after `set -euo pipefail`.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# Prints a command as one would type it, then runs it.
run() {
    local word line=
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./,:=@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
        line+=" $word"
    done
    printf '\n$%s\n' "$line"
    "$@"
}

# Runs a command and shows its output only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    [ "$status" = 0 ] || { say "failed: $*"; cat "$log" >&2; }
    rm -f "$log"
    return "$status"
}

# configure BUILDDIR MESON-OPTION...: sets a build directory up, or brings it to these options.
configure() {
    local dir=$1
    shift
    if [ -f "$dir/build.ninja" ]; then
        quietly meson configure "$dir" "$@"
    else
        rm -rf "$dir"
        quietly meson setup "$dir" "$root" "$@"
    fi
}

# Lets mpirun start more ranks than cores, unpinned, wherever this runs. What is set already stays.
mpi_environment() {
    if [ "$(id -u)" = 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
    export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
}
