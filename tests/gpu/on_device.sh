#!/bin/sh
# on_device.sh SIMULATOR PLUGIN_DIR PROGRAM [ARGUMENT...]: runs PROGRAM with the plug-in of this build on
# the simulated device; or, where LOCKSTEP_REAL_GPU=1, on the machine's GPUs, of which there are
# LOCKSTEP_GPUS: skipped if its -np is more.
simulator=$1
export LOCKSTEP_PLUGIN_DIR="$2"
shift 2
# Meson puts the simulator's directory there by itself, as for every library of the build, and the
# host's tests find no driver in no-driver.
others=$(printf '%s' "${LD_LIBRARY_PATH:-}" | tr : '\n' | grep -vFx -e "$simulator" |
    grep -v '/tests/data/no-driver$' | paste -sd:)
if [ "${LOCKSTEP_REAL_GPU:-0}" != 1 ]; then
    export LD_LIBRARY_PATH="$simulator${others:+:$others}"
    export GPUSIM_DEVICES="${GPUSIM_DEVICES:-8}"
    exec "$@"
fi
export LD_LIBRARY_PATH="$others"
if [ "${2:-}" = -np ] && [ "$3" -gt "${LOCKSTEP_GPUS:-1}" ] &&
    [ "${NCCL_MULTI_RANK_GPU_ENABLE:-0}" != 1 ]; then
    echo "$3 ranks need $3 GPUs, and here are ${LOCKSTEP_GPUS:-1}"
    exit 77
fi
exec "$@"
