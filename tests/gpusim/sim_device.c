/* Devices, versions and errors' names. */
#include <stdio.h>
#include <string.h>

#include "sim.h"

static _Thread_local int current;

GPUSIM_API int gpusim_device(void) {
    return current;
}

API cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

API cudaError_t cudaDriverGetVersion(int *version) {
    *version = sim_settings()->driver;
    return cudaSuccess;
}

API cudaError_t cudaGetDeviceCount(int *n) {
    cudaError_t e = sim_enter("cudaGetDeviceCount");
    if (e == cudaSuccess) {
        *n = sim_settings()->n_device;
    }
    return sim_leave(e);
}

static bool exists(int device) {
    return device >= 0 && device < sim_settings()->n_device;
}

API cudaError_t cudaSetDevice(int device) {
    cudaError_t e = sim_enter("cudaSetDevice");
    if (e == cudaSuccess && !exists(device)) {
        e = cudaErrorInvalidDevice;
    }
    current = e == cudaSuccess ? device : current;
    return sim_leave(e);
}

API cudaError_t cudaGetDevice(int *device) {
    cudaError_t e = sim_enter("cudaGetDevice");
    *device = current;
    return sim_leave(e);
}

API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device) {
    cudaError_t e = sim_enter("cudaGetDeviceProperties");
    const struct settings *s = sim_settings();
    if (e == cudaSuccess && !exists(device)) {
        e = cudaErrorInvalidDevice;
    }
    if (e == cudaSuccess) {
        memset(out, 0, sizeof *out);
        snprintf(out->name, sizeof out->name, "%s", s->name);
        out->totalGlobalMem = s->memory;
        out->major = s->cc_major;
        out->minor = s->cc_minor;
        out->multiProcessorCount = 4;
        out->warpSize = 32;
        out->maxThreadsPerBlock = 1024;
        out->pciBusID = device + 1;
    }
    return sim_leave(e);
}

API cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int device) {
    cudaError_t e = sim_enter("cudaDeviceGetPCIBusId");
    if (e == cudaSuccess && !exists(device)) {
        e = cudaErrorInvalidDevice;
    }
    if (e == cudaSuccess) {
        snprintf(out, (size_t)bytes, "0000:%02X:00.0", device + 1);
    }
    return sim_leave(e);
}

API cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr attribute, int device) {
    cudaError_t e = sim_enter("cudaDeviceGetAttribute");
    const struct settings *s = sim_settings();
    if (e == cudaSuccess && !exists(device)) {
        e = cudaErrorInvalidDevice;
    }
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *out = s->cc_major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *out = s->cc_minor;
        break;
    case cudaDevAttrMultiProcessorCount:
        *out = 4;
        break;
    default:
        gpusim_finding("cudaDeviceGetAttribute: attribute %d is not simulated", (int)attribute);
        e = cudaErrorInvalidValue;
    }
    return sim_leave(e);
}

/* ---- errors ---- */

static const struct {
    cudaError_t e;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

API const char *cudaGetErrorName(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].e == e) {
            return errors[i].name;
        }
    }
    return "unrecognized error code";
}

API const char *cudaGetErrorString(cudaError_t e) {
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].e == e) {
            return errors[i].text;
        }
    }
    return "unrecognized error code";
}

API cudaError_t cudaGetLastError(void) {
    sim_lock();
    cudaError_t e = sim_last_error(true);
    sim_unlock();
    return e;
}

API cudaError_t cudaPeekAtLastError(void) {
    sim_lock();
    cudaError_t e = sim_last_error(false);
    sim_unlock();
    return e;
}
