/* The flight records of the ranks on this host: this one's in a memory file that the others map
 * (memory_file.h). A neighbour checks by the token that it is what it was told; what cannot be
 * mapped is not readable, and nothing else. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/flight.h"

/* Where a record is, as ranks of one host tell each other. */
struct flight_address {
    int32_t rank, pid;
    int32_t fd; /* -1: not shared */
    int32_t unused;
    uint64_t token;
};

/* Moves this process's record into memory that others can map, once; else it stays private.
 * fd -1 in the address says so. */
struct flight_address flight_share(int rank);

/* Maps a neighbour's record, or does not. Main thread, at start-up. */
void flight_map(const struct flight_address *a);

/* A rank's record: this process's own, a mapped one, or NULL. Any thread, from then on. */
const struct flight *flight_of_rank(int rank);

/* True where a neighbour has said why the run ends, or has come to its good end. */
bool flight_neighbour_has_said(void);

/* How the kernel sees a rank of this host whose record is mapped: 'R' running, 'S' waiting, 'D' in
 * the kernel, as for a disk, 'T' stopped, 'Z' or 'X' ended (no such process, too); 0: not known. */
char flight_process_state(int rank);

/* True for one that has ended after it came to its good end: not missed by anybody. */
bool flight_has_ended_well(int rank);

/* A descriptor that becomes readable when that rank's process ends; -1: there is none, as for this
 * process, for ranks whose record is not mapped, and where the kernel has no such thing. The
 * caller's. */
int flight_watch(int rank);
