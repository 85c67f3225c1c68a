#!/bin/sh
# on_device.sh SIMULATOR PLUGIN_DIR PROGRAM [ARGUMENT...]: runs PROGRAM with the plug-in of this build on
# the simulated device; or, where LOCKSTEP_REAL_GPU=1, on the machine's GPUs, of which there are
# LOCKSTEP_GPUS: skipped if its -np is more.
simulator=$1
export LOCKSTEP_PLUGIN_DIR=$2
shift 2
if [ "${LOCKSTEP_REAL_GPU:-0}" != 1 ]; then
    export LD_LIBRARY_PATH="$simulator${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export GPUSIM_DEVICES="${GPUSIM_DEVICES:-8}"
elif [ "${2:-}" = -np ] && [ "$3" -gt "${LOCKSTEP_GPUS:-1}" ] &&
    [ "${NCCL_MULTI_RANK_GPU_ENABLE:-0}" != 1 ]; then
    echo "$3 ranks need $3 GPUs, and here are ${LOCKSTEP_GPUS:-1}"
    exit 77
fi
exec "$@"
