/* Requests of a trace, done again. */
#pragma once

#include "leader/pool.h"

/* Gets each rank's reply; one that a rank refuses a request with is MESSAGE_ERROR. */
typedef void replay_reply(void *user, int rank, const struct message *reply);

/* True for what is done again: not for the measurements of `check`, nor for the end. */
bool replay_knows(enum message_type request);

/* Asks all what was asked when it was recorded, or `rank` alone where it is a ping (-1: all). Where
 * the pool's options leave device, kernels or arithmetic open, an `init` takes the recorded ones;
 * deadlines are the pool's. A step has one reply, rank 0's: its digest, or why every rank refused
 * it. Errors: those after which the ranks cannot go on. */
bool replay_request(struct pool *p, const struct message *request, int rank, replay_reply *on_reply,
                    void *user, struct error *err);
