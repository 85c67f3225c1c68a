/* What the simulated libcudart gives the simulated libnccl and libcublas besides CUDA's own ABI.
 *
 * Device memory: an address that cudaMalloc returned is reserved but not accessible, so that host
 * code that follows it faults; its bytes live elsewhere and are reached through gpusim_memory().
 * Streams are lazy: an operation runs only when something waits for its stream or asks about it.
 *
 * README.md here has the environment variables, the faults and what is reported.
 * A finding is one line "gpusim: rank R: FINDING: ..." on stderr; a process with findings that
 * would exit 0 exits 86. */
#pragma once

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GPUSIM_API __attribute__((visibility("default")))

enum gpusim_access { GPUSIM_READ = 1, GPUSIM_WRITE = 2 };

/* The bytes behind device memory [p, p + bytes), or NULL after a finding that names `who`, when
 * that is not wholly inside one live allocation. READ: finding (but not NULL) if a byte was never
 * written; WRITE: marks them written. Ordinary and pinned host memory: returns p itself only where
 * allow_host is true. */
GPUSIM_API void *gpusim_memory(const void *p, size_t bytes, enum gpusim_access access,
                               bool allow_host, const char *who);

/* An operation of a stream. run() is called when the stream gets there, again and again until it
 * says DONE or FAILED; BUSY means that it waits for another process (cudaStreamQuery then says
 * cudaErrorNotReady). It must not block. A FAILED one leaves `error` as the device's sticky error.
 * The operation is kept for replay when the stream is being captured, so run() must reset itself at
 * each start: `start` is true on the first call of each execution. */
enum gpusim_status { GPUSIM_DONE, GPUSIM_BUSY, GPUSIM_FAILED };
struct gpusim_op {
    const char *name;
    enum gpusim_status (*run)(void *arg, bool start, cudaError_t *error);
    void (*destroy)(void *arg); /* when the operation, and every graph that holds it, is gone */
    void *arg;
    const void *owner; /* the communicator it belongs to, or NULL */
    /* Pinned memory that it reads or, if host_written, writes. */
    const void *host;
    size_t host_bytes;
    bool host_written;
};
GPUSIM_API cudaError_t gpusim_enqueue(cudaStream_t stream, const struct gpusim_op *op);

/* Executable and captured graphs alive that hold an operation of this owner. */
GPUSIM_API int gpusim_graphs_of(const void *owner);
/* Operations of this owner that wait in streams are dropped (an aborted communicator). */
GPUSIM_API void gpusim_drop(const void *owner);

/* One line, counted; see the top. */
GPUSIM_API void gpusim_finding(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* To be called at the top of every API function. NULL, or the KIND of the fault that falls due with
 * this call. "exit" does not return: the process ends with _exit(1). */
GPUSIM_API const char *gpusim_fault(const char *op);

/* The process has failed, or given up what it began: what it leaves is no finding, however it
 * exits. */
GPUSIM_API void gpusim_give_up(void);
GPUSIM_API bool gpusim_gave_up(void);

GPUSIM_API int gpusim_rank(void);
/* The current device's index on this host. */
GPUSIM_API int gpusim_device(void);

#ifdef __cplusplus
}
#endif
