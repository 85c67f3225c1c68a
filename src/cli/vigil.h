/* Watches the ranks of this host, this one among them, whatever the main thread is in: one whose
 * process ends without having said why, or whose main thread stands still for longer than the
 * deadline, for it is stopped or stuck, ends the job. */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Before MPI_Init: whom the watchdog ends tells the other processes of the launcher so. */
void vigil_begin(void);

/* Starts the thread; once the ranks of this host know each other (host_facts_read). timeout_s: for
 * one that stands still to go on. Errors: INTERNAL. */
bool vigil_start(int rank, int world, double timeout_s, struct error *err);

/* For when the launcher begins to end the job and the ranks do not know each other yet: whether one
 * of this host has ended, by their launcher's children. Ends this process then. */
void vigil_look_at_siblings(void);

/* The launcher ends the job, and not because of a rank of this host: where nobody on another host
 * may know better, and the command does not say so itself at once, rank 0 says that. */
void vigil_say_ended(void);

/* Of the ranks of this host that can speak this is the lowest. */
bool vigil_is_speaker(void);

/* Whether a rank is lost, and which; from any thread. In a moment this process ends. */
bool vigil_lost(struct error *out);
