#!/bin/sh
# on_device.sh SIMULATOR PLUGIN_DIR PROGRAM [ARGUMENT...]: runs PROGRAM with the plug-in of this build,
# on the simulated device, or on real GPUs where LOCKSTEP_REAL_GPU=1.
simulator=$1
export LOCKSTEP_PLUGIN_DIR=$2
shift 2
if [ "${LOCKSTEP_REAL_GPU:-0}" != 1 ]; then
    export LD_LIBRARY_PATH="$simulator${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export GPUSIM_DEVICES="${GPUSIM_DEVICES:-8}"
fi
exec "$@"
