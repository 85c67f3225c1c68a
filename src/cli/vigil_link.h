/* The vigil's eyes on other hosts: a TCP connection between every two ranks of a job that has more
 * than one host. Both ends say every half second that they live, and at the end why. A process that
 * ends closes its links; one that is stopped, or whose host is cut off, falls silent.
 *
 * Links are extra: where one cannot be made, as through a firewall, its ranks do without.
 * The vigil's thread takes the turns; what is said may be said by any thread. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "cli/vigil_address.h"
#include "cli/vigil_frame.h"

/* Opens this rank's port, on all interfaces. */
void vigil_link_open(struct vigil_address *own);

/* Begins to make the links; `all` has every rank's address. Errors: MEMORY. */
bool vigil_link_meet(int rank, int world, const struct vigil_address *all, struct error *err);

/* Readable when there is something to do; -1: there are no links. */
int vigil_link_fd(void);

/* Does it. passed_s: the time since the last turn, in which somebody may have been silent; time in
 * which this process was stopped does not count. */
void vigil_link_turn(double passed_s);

/* ---- what is known; any thread ---- */

/* The first rank whose process has ended without a word, or was silent for so long; -1: none. */
int vigil_link_ended(void);
int vigil_link_silent(double seconds);
/* For how long that one has been. */
double vigil_link_silence(int rank);

/* It was heard of a moment ago. */
bool vigil_link_lives(int rank);
/* What is sent to it is not even taken by its host. */
bool vigil_link_is_out_of_reach(int rank);
/* Another rank has ended the job, for this reason. */
bool vigil_link_heard(struct error *why);
/* And the reason has been printed. */
bool vigil_link_has_said(void);
/* There is, or was, a link to every other rank. */
bool vigil_link_is_whole(void);

/* Tells every other rank. err (may be NULL): with LOST and SAID. */
void vigil_link_say(enum vigil_word word, const struct error *err);
