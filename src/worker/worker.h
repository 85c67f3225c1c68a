/* One rank's side of the control protocol: what it holds (device, communicator, model), and one
 * handler per message. Rank 0 handles its own share with the same handlers. */
#pragma once

#include <mpi.h>
#include <stdbool.h>

#include "base/error.h"
#include "comm/comm.h"
#include "model/model.h"
#include "rpc/messages.h"
#include "rpc/transport.h"
#include "worker/facts.h"
#include "worker/gpu.h"

struct worker;

enum { WORKER_ECHO_TAG = 60 }; /* of a bare ping-pong on the control communicator */

struct worker_options {
    MPI_Comm control; /* borrowed: requests, replies, and the broadcast of the id */
    MPI_Comm tensor;  /* borrowed: the tensors' own communicator */
    struct host_facts facts;
    int threads; /* per rank; at least 1 */
    double timeout_s;
    struct gpu_wish gpu;
    /* Told what this rank computes on, "cuda:1" or "host", when init has chosen it. May be NULL. */
    void (*on_device)(const char *device);
};

/* Errors: MEMORY. */
bool worker_create(struct worker **out, const struct worker_options *options, struct error *err);
/* A GPU that has failed is left to the end of the process: see worker_left_gpu. */
void worker_destroy(struct worker *w);
/* True when this process has left a failed GPU behind, on which something may still run: exit()
 * could wait for that for ever, in handlers of CUDA's own. */
bool worker_left_gpu(void);

/* Does what the request says and fills the reply. On failure the message of the error starts with
 * the request's name. The second half of init, worker_join, comes after its reply is sent.
 * Errors: PROTOCOL, COMM_NOT_INIT, and those of what it calls. */
bool worker_handle(struct worker *w, const struct message *request, struct message *reply,
                   struct error *err);

/* Second half of init: receives the communicator's id from rank 0 by MPI_Ibcast and creates the
 * communicator. Every rank that answered init must call it, whatever it answered; on rank 0 `go`
 * says whether all answered well, and where it is false the id is zero and nobody creates anything.
 * Collective. Errors: COMM, COMM_INIT, NCCL_INIT, DEADLINE. */
bool worker_join(struct worker *w, bool go, struct error *err);

/* What a load asks for, borrowed from it. Errors: PROTOCOL (no such type). */
bool worker_load_params(const struct message_load *load, struct model_params *out,
                        struct error *err);

/* What a load of these params would take on this rank; see model_measure. */
bool worker_measure(struct worker *w, const struct model_params *params, struct model_needs *out,
                    struct error *err);

/* The two halves of a step, as model.h has them; both are MESSAGE_STEP's handler. Rank 0 asks the
 * others in between, when what may fail on it alone has not. */
bool worker_prepare(struct worker *w, const struct step *step, struct step_result *results,
                    struct error *err);
bool worker_run(struct worker *w, struct error *err);

/* The digest of such results, on rank 0. */
uint64_t worker_digest(const struct worker *w, const struct step *step,
                       const struct step_result *results);

/* Called while this rank waits inside a collective; see comm.h. */
void worker_set_poll(struct worker *w, transport_hook *poll, void *user);
/* Told while a model loads. */
void worker_set_progress(struct worker *w, const struct model_progress *progress);

/* Borrowed; NULL before init. */
struct comm *worker_comm(struct worker *w);

/* Receives, dispatches and replies until shutdown. A frame that is malformed or unknown is answered
 * with an error and nothing else. Errors: COMM, MEMORY, DEADLINE (this rank waited in vain inside a
 * request, and then rank 0 said nothing either): this rank cannot go on. */
bool worker_serve(struct worker *w, struct transport *t, struct error *err);
