/* Reads the flight records of a --dump-dir. They are not trusted: a file that is truncated, of
 * another program or of an earlier run is left out, and why is told. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "base/flight.h"

enum { DUMP_WORLD_MAX = 4096 };

struct dump {
    bool known; /* else nothing else counts */
    struct flight_owner owner;
    char job[17]; /* of flight_owner, as text; "": not known, as in an older dump */
    int written_by;
    char state; /* of the process, as its neighbour saw it; 0: not known */
    char phase[FLIGHT_OP_SIZE];
    char reason[512];
    uint64_t wall_ns, monotonic_ns; /* of the host that wrote it, when it did */
    uint64_t pulse_ns;              /* flight_read_pulse's; 0: not known */
    struct flight_entry rpc;        /* the last one; number 0: none */
    struct flight_entry entries[FLIGHT_ENTRIES];
    int n_entry;
};

struct dump_file {
    char name[64];
    char why[300]; /* it is left out */
};

struct dump_set {
    int world;
    struct dump *dumps;        /* owns [world] */
    struct dump_file *ignored; /* owns [n_ignored] */
    int n_ignored;
};

/* Errors: IO (no such directory, no dump in it), INPUT (none that can be read), MEMORY. */
bool dump_set_read(struct dump_set *out, const char *dir, struct error *err);
void dump_set_finish(struct dump_set *s);
