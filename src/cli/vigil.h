/* Watches the ranks, this one among them, whatever the main thread is in: one whose process ends
 * without having said why, or whose main thread stands still for longer than the deadline, for it
 * is stopped or stuck, ends the job. Ranks of this host are seen as processes, those of others
 * through links (vigil_link.h). */
#pragma once

#include <stdbool.h>

#include "base/error.h"

/* Before MPI_Init, after interrupt_start: watches the launcher, or its daemon on this host, and has
 * whom the watchdog ends tell the others so. Errors: INTERNAL. */
bool vigil_begin(struct error *err);

/* Starts the thread; once the ranks of this host know each other (host_facts_read). timeout_s: for
 * one that stands still to go on. Errors: INTERNAL. */
bool vigil_start(int rank, int world, double timeout_s, struct error *err);

/* For when the launcher begins to end the job and the ranks do not know each other yet: whether one
 * of this host has ended, by their launcher's children. Ends this process then. */
void vigil_look_at_siblings(void);

/* For when it wants an end and the ranks do not know each other yet: there is nothing to finish,
 * and this process ends. told: another rank has said why. */
void vigil_end_in_init(bool told);

/* The launcher ends the job, and not because of a rank of this host: where nobody on another host
 * may know better, and the command does not say so itself at once, rank 0 says that. */
void vigil_say_ended(void);

/* Of all ranks that are known to live and can speak this is the lowest: what ends the job is this
 * one's to say. */
bool vigil_is_first(void);

/* Another rank has said why the run ends, or has come to its good end. */
bool vigil_has_been_said(void);

/* Where another rank is first, a moment for it to say why the run ends: one line is enough. */
void vigil_let_others_first(void);

/* Whether to say why this process ends is this thread's: not where another rank has said it, who
 * gets a moment to, or another thread. */
bool vigil_may_say(void);

/* This rank has said so, or is about to; ends_all: and every other one shall end for it. Any
 * thread. */
void vigil_note_said(const struct error *err, bool ends_all);

/* The job ends for this reason, which the first one shall say. */
void vigil_pass_on(const struct error *err);

/* For the line: where a rank of this host is, by its record. */
void vigil_note_place(int rank);

/* Whether a rank is lost, and which; from any thread. In a moment this process ends. */
bool vigil_lost(struct error *out);
