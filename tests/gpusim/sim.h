/* Inside the simulated libcudart: what its files share. One mutex guards everything; API functions
 * take it, functions here expect it held. */
#pragma once

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpusim.h"
#include "ptx.h"

#define API __attribute__((visibility("default")))

/* ---- sim_state.c: environment, findings, faults, errors ---- */

struct settings {
    int rank;
    int n_device;
    size_t memory; /* bytes of a device */
    int cc_major, cc_minor;
    const char *name;
    int driver; /* version; 0: none */
    bool check;
};

const struct settings *sim_settings(void);
void sim_lock(void);
void sim_unlock(void);

/* The top of every API function: takes the lock, looks for a fault of this name, for a missing
 * driver and for an error that sticks. Not cudaSuccess: what to return, through sim_leave. */
cudaError_t sim_enter(const char *name);
/* The bottom: notes an error as the last one, and gives the lock back. */
cudaError_t sim_leave(cudaError_t e);
/* An error that every later call answers with (kernel faults). */
void sim_stick(cudaError_t e);
cudaError_t sim_sticky(void);
/* The last error, and whether to forget it. */
cudaError_t sim_last_error(bool forget);
/* The kind of fault that falls due with this call of `op`, or NULL. "exit" does not return. */
const char *sim_fault(const char *op);
cudaError_t sim_fault_error(const char *kind);

/* ---- sim_memory.c ---- */

const struct ptx_block *sim_find(uint64_t address);
/* See gpusim_memory. */
void *sim_memory(const void *p, size_t bytes, enum gpusim_access access, bool allow_host,
                 const char *who);
/* Whether p lies in the address range of device memory, live or not. */
bool sim_is_device(const void *p);
/* Learns of host code that faults. */
void sim_watch_host(void);
void sim_memory_report_leaks(void);

/* ---- sim_pinned.c ---- */

cudaError_t sim_pinned_allocate(void **out, size_t bytes);
cudaError_t sim_pinned_release(void *p);
bool sim_is_pinned(const void *p);
/* Where the device finds the bytes of pinned memory; NULL where p is something else. */
void *sim_pinned_device(const void *p);
/* Between these two an operation waits that reads, or writes, these bytes. Other memory: nothing.
 */
void sim_pinned_use(const void *p, size_t bytes, bool written, const char *who);
void sim_pinned_used(const void *p, size_t bytes, bool written);
/* Host code faulted at this address of pinned memory, and may now go on; false: it is none. */
bool sim_pinned_fault(const void *address, const void *context);
void sim_pinned_report_leaks(void);

/* ---- sim_stream.c ---- */

/* An operation, shared by streams, captured graphs and executable graphs. */
struct op {
    struct gpusim_op call;
    int n_user;
    bool dropped; /* its owner is gone: does nothing */
};

/* Enqueues, or adds to the graph being captured. Takes over call.arg even on failure. */
cudaError_t sim_enqueue(cudaStream_t stream, const struct gpusim_op *call);
/* Runs what waits in the stream until it is empty, must wait for another process
 * (cudaErrorNotReady), or fails. */
cudaError_t sim_run(cudaStream_t stream);
/* Runs all streams likewise. */
cudaError_t sim_run_all(void);
/* Spends the capture of every stream: an operation was called that no capture may contain. True
 * where there was one. */
bool sim_breaks_capture(void);
void sim_stream_report_leaks(void);
bool sim_is_capturing(cudaStream_t stream);
/* The operation that is running belongs to a graph that was launched. */
bool sim_replaying(void);
void op_unref(struct op *op);

/* ---- sim_event.c ---- */

void sim_event_report_leaks(void);

/* ---- sim_launch.c ---- */
void sim_launch_finish(void);
