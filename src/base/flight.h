/* A rank's flight record: the last RPCs and collectives, with the times they were entered and left,
 * and the pulse of its main thread, in memory that neighbours on the same host can read
 * (flight_peers.h) when their owner is mute.
 *
 * The main thread alone writes. Others, of this process or of another, read at any time: each entry
 * carries its own number in the ring, written before and after the rest, so that a reader takes an
 * entry whole or not at all. There is one record per process; the CUDA plug-in, which has a copy of
 * this code, is given the program's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLIGHT_ENTRIES = 256, FLIGHT_OP_SIZE = 16 };

enum flight_kind {
    FLIGHT_RPC,
    FLIGHT_COLLECTIVE, /* on a GPU: left once it is enqueued */
    FLIGHT_WAIT,       /* for a GPU; its number is that of the last collective enqueued before */
    FLIGHT_KIND_COUNT
};

enum flight_part {
    FLIGHT_NOWHERE,
    FLIGHT_EMBEDDING,
    FLIGHT_ATTENTION, /* of a layer */
    FLIGHT_MLP,       /* of a layer */
    FLIGHT_HEAD,
    FLIGHT_PART_COUNT
};

enum flight_type { FLIGHT_BYTES, FLIGHT_F32, FLIGHT_U32, FLIGHT_TYPE_COUNT };

/* What a collective is called with: equal on every rank, or the ranks do not mean the same one. */
struct flight_call {
    const char *op; /* shorter than FLIGHT_OP_SIZE */
    uint64_t bytes;
    enum flight_type type;
};

struct flight_entry {
    enum flight_kind kind;
    uint64_t number; /* collectives are counted from 1, RPCs as the protocol counts them */
    char op[FLIGHT_OP_SIZE];
    int layer; /* -1: none */
    enum flight_part part;
    enum flight_type type;
    uint64_t bytes;
    uint64_t enter_ns, leave_ns; /* on the host's monotonic clock; leave 0: inside */
};

/* Who a record is of. */
struct flight_owner {
    int32_t rank, world;
    int32_t pid;
    uint64_t job; /* the same on all ranks of a job, and of no other */
    char host[64];
    char device[16];
};

struct flight;

const char *flight_kind_name(enum flight_kind kind);
const char *flight_part_name(enum flight_part part); /* "" for FLIGHT_NOWHERE */
const char *flight_type_name(enum flight_type type);

/* ---- writing: this process's own record, by its main thread ---- */

/* A record in the caller's zeroed memory of flight_size() bytes becomes this process's. Until then
 * there is one that nobody else sees. `token` is what a reader knows it by. */
size_t flight_size(void);
void flight_place_in(struct flight *memory, uint64_t token);

/* The plug-in's side: the program's record. */
void flight_use(struct flight *f);
struct flight *flight_own(void);

void flight_set_owner(const struct flight_owner *owner);
void flight_set_device(const char *device); /* "cuda:1" */

/* Where in the model the collectives to come are; layer -1: in none. */
void flight_place(int layer, enum flight_part part);

/* Enters one; times are clock_now()'s. What comes back goes to flight_leave. */
uint64_t flight_enter_collective(const struct flight_call *call, double now);
uint64_t flight_enter_rpc(uint64_t number, const char *op, uint64_t bytes, double now);
uint64_t flight_enter_wait(const char *op, double now);
void flight_leave(uint64_t entry, double now);

/* The main thread is alive, and from now on silent until then at the most: as a rule `until` is
 * now. INFINITY: for as long as somebody takes who reads its output or types its input. What enters
 * and leaves is a pulse, too. */
void flight_pulse(double until);

/* The same without a look at the clock, for inside a long computation: the pulse has moved. */
void flight_tick(void);

/* The number of the last collective entered. */
uint64_t flight_collectives(void);

/* This rank has said why the run ends, and ends with this exit code: what others say from then on
 * follows from that. 0: it has come to its good end, and there is nothing to say. Any thread. */
void flight_note_said(int exit_code);

/* ---- reading: anybody's record, at any time ---- */

bool flight_is(const struct flight *f, uint64_t token);
bool flight_read_owner(const struct flight *f, struct flight_owner *out);
/* The exit code; -1: it has said nothing. */
int flight_said(const struct flight *f);

/* The last pulse: until when silence was announced, in ns on the host's monotonic clock; 0: none.
 */
uint64_t flight_read_pulse(const struct flight *f);

/* The entries that can be had, oldest first. Returns their number. */
int flight_read(const struct flight *f, struct flight_entry out[FLIGHT_ENTRIES]);

/* The last of a kind that was entered; of RPCs also where it has left the ring. False: none. */
bool flight_read_last(const struct flight *f, enum flight_kind kind, struct flight_entry *out);
