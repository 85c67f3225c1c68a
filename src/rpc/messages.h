/* The control protocol's messages as typed structs, and their frames: msgpack maps with short
 * string keys, "t" the type and "s" the sequence number. docs/protocol.md shows every frame.
 *
 * Frames are not trusted: decoding never allocates more than a small multiple of the bytes it was
 * given, ignores keys it does not know, and answers anything else with a PROTOCOL error that names
 * the message and the field. */
#pragma once

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/flight.h"
#include "nn/step.h"

enum {
    PROTOCOL_VERSION = 9,
    FRAME_MAX_BYTES = 64 << 20,
    MESSAGE_PATH_MAX = 4096,
};

/* Who says it. The tag of a frame; a type is only understood on its own side. */
enum message_side { SIDE_REQUEST, SIDE_REPLY, SIDE_NOTICE, SIDE_COUNT };

/* The reply to a request is the type after it. A step's goes into rank 0's trace alone. */
enum message_type {
    MESSAGE_HELLO,
    MESSAGE_HELLO_OK,
    MESSAGE_PING,
    MESSAGE_PONG,
    MESSAGE_ECHO, /* a bare MPI ping-pong, to compare ping with */
    MESSAGE_ECHO_OK,
    MESSAGE_INIT,
    MESSAGE_INIT_OK,
    MESSAGE_SANITY,
    MESSAGE_SANITY_RESULT,
    MESSAGE_BANDWIDTH, /* one measurement of one collective */
    MESSAGE_BANDWIDTH_RESULT,
    MESSAGE_PROBE, /* one measurement of one limit of the machine */
    MESSAGE_PROBE_RESULT,
    MESSAGE_LOAD,
    MESSAGE_LOADED,
    MESSAGE_STEP,
    MESSAGE_STEPPED,
    MESSAGE_UNLOAD,
    MESSAGE_UNLOADED,
    MESSAGE_STATS,
    MESSAGE_STATS_RESULT,
    MESSAGE_SHUTDOWN,
    MESSAGE_BYE,
    MESSAGE_ERROR,    /* a reply */
    MESSAGE_TROUBLE,  /* a notice: the same content as error, for what has no reply */
    MESSAGE_PROGRESS, /* a notice, while loading */
    MESSAGE_PLACE,    /* a notice, when somebody waits in vain: where a rank is */
    MESSAGE_COUNT
};

struct message_hello {
    int32_t protocol;
    char build[32];
    int32_t leftovers; /* 1: look for what killed runs have left in memory */
};

/* What a rank says about itself. */
struct message_hello_ok {
    int32_t protocol;
    char build[32];
    char version[32];
    char mpi[96];
    char msgpack[32];
    int32_t rank;
    char host[128];
    int32_t pid;
    int32_t local_rank;
    int32_t local_size;   /* ranks on this host */
    int32_t cores;        /* this rank may use: affinity and cgroup limit */
    int32_t cores_host;   /* of the host, online */
    int32_t sharers;      /* ranks of this host, this one included, that may use one of its cores */
    char binding[96];     /* cores by affinity alone: "0-3,8" */
    char numa[48];        /* NUMA nodes of these: "0-1"; empty where the host does not say */
    int32_t numa_nodes;   /* how many these are */
    int32_t numa_host;    /* of the host, those with cores; 0 where it does not say */
    int32_t threads;      /* this rank will use */
    uint64_t memory;      /* bytes this rank could still allocate */
    char isas[64];        /* instruction sets it can use, best last: "generic avx2 avx512" */
    char device[64];      /* the best that it can and may use: "cuda:1", or "host" */
    char device_why[320]; /* why that is not CUDA, in CUDA's own words; empty: nobody asked */
    int32_t n_gpu;        /* that it sees; -1: there should be one, but device_why */
    /* Of the GPU that it would take; empty and 0 where it did not come so far. */
    char gpu[96];
    char gpu_pci[16]; /* bus id */
    char gpu_cc[8];   /* compute capability, "9.0" */
    uint64_t gpu_memory;
    char nccl[32];      /* "2.28.9" */
    int32_t nccl_code;  /* 22809 */
    int32_t gpu_shared; /* 1: NCCL is told to let ranks share a GPU */
    /* What killed runs have left in memory, where hello asks for it, by one rank of each host. */
    int32_t leftovers; /* files */
    uint64_t leftover_bytes;
    char leftover_pattern[200];            /* for rm */
    int32_t leftover_runs, leftover_named; /* in all, and of them in the pattern */
};

struct message_pong {
    int32_t rank;
};

struct message_echo {
    int32_t bytes;
    int32_t count;
};

struct message_init {
    char device[64]; /* "host" or "cuda" */
    char isa[32];    /* of the host's kernels */
    char dtype[8];   /* of activations: "f32" or "bf16" */
    int32_t graphs;  /* 1: capture decode steps in CUDA graphs */
    int32_t sharers; /* most ranks on one GPU */
    int32_t check;   /* 1: compare collectives before each */
    double timeout_s;
};

struct message_sanity_result {
    uint64_t observed_sum;
};

struct message_bandwidth {
    char collective[32];
    uint64_t bytes;
    int32_t iters;
    int32_t warmup;
    int32_t bare; /* 1: MPI's own, on host memory, to compare with */
};

struct message_bandwidth_result {
    double seconds;
    double median_s;
    uint64_t wrong;
};

struct message_probe {
    char what[16];   /* probe_limit_name */
    int32_t pattern; /* of memory reads */
    uint64_t bytes;  /* to stream through; the first request's count */
    double seconds;
};

struct message_probe_result {
    double rate; /* of this rank, a second; 0: there is no such pattern, or the device is a GPU */
};

struct message_load {
    char dir[MESSAGE_PATH_MAX];
    int32_t ctx;
    int32_t n_block;
    int32_t max_tok;
    char kv_dtype[8]; /* of the KV cache: "f32" or "bf16" */
    int32_t measure;  /* 1: only answers what it would take, what is free, and the fingerprint */
    int32_t file;     /* 0: the fingerprint is of all files of weights; else of this one alone */
    char quant[8];    /* what the matrices are quantized to: "q8_0" or "q4_0"; "": they are not */
};

struct message_loaded {
    uint64_t bytes; /* read from disk */
    double seconds;
    uint64_t bytes_held;               /* weights, KV cache and buffers */
    uint64_t nonfinite;                /* weights that are NaN or infinite */
    uint64_t config, headers, content; /* what must be the same everywhere: model/fingerprint.h */
    /* Measured: */
    uint64_t weights, kv, buffers;
    /* Free, UINT64_MAX where nothing limits: to this rank alone, to the ranks of its control group
     * (or of its GPU), which has a number among those of the host, and to those of its host. */
    uint64_t free_own, free_group, group, free_host;
};

struct message_stepped {
    uint64_t digest; /* of the results: worker_digest */
};

struct message_unloaded {
    uint64_t bytes_freed;
    /* Of the rank's process: what stood in memory before the load, and stands there now. */
    uint64_t resident_before, resident;
};

/* Since the last stats request. */
struct message_stats {
    uint64_t n_step;
    double step_s;     /* in the forward pass, all included */
    double wait_s;     /* of it, in collectives: for other ranks to come; 0 on a GPU, as the next */
    double transfer_s; /* of it, in collectives: moving and adding */
    uint64_t n_collective;
    uint64_t bytes_sent;
    uint64_t rss; /* now: bytes of this process in memory */
};

struct message_error {
    char kind[32];
    char message[480];
};

struct message_progress {
    uint64_t bytes_done;
    uint64_t bytes_total;
};

/* Where a rank is, by its own word or that of a neighbour that reads its flight record. */
struct message_place {
    int32_t rank;
    int32_t state; /* a letter, as flight_process_state has it; 0: not known */
    /* The last collective and the last request entered; number 0: none. */
    uint64_t collective;
    int32_t inside; /* 1: not left yet */
    char op[FLIGHT_OP_SIZE];
    int32_t layer, part, type;
    uint64_t bytes;
    double age_s; /* since it was entered */
    uint64_t rpc;
    int32_t rpc_inside;
    char rpc_op[FLIGHT_OP_SIZE];
    double rpc_age_s;
    double still_s; /* for how long its main thread has stood still */
};

struct message {
    enum message_type type;
    uint64_t seq; /* a reply repeats its request's; a notice names the request it is about */
    union {
        struct message_hello hello;
        struct message_hello_ok hello_ok;
        struct message_pong pong;
        struct message_echo echo;
        struct message_init init;
        struct message_sanity_result sanity_result;
        struct message_bandwidth bandwidth;
        struct message_bandwidth_result bandwidth_result;
        struct message_probe probe;
        struct message_probe_result probe_result;
        struct message_load load;
        struct message_loaded loaded;
        struct step step; /* decoded: borrowed from the decoder, until it decodes again */
        struct message_stepped stepped;
        struct message_unloaded unloaded;
        struct message_stats stats;
        struct message_error error; /* ERROR and TROUBLE */
        struct message_progress progress;
        struct message_place place;
    };
};

const char *message_name(enum message_type type);
enum message_side message_side(enum message_type type);

/* Replaces the content of `out` with the frame. Errors: MEMORY. */
bool message_encode(struct buffer *out, const struct message *m, struct error *err);

/* Memory that decoded messages borrow; reused, so that the hot path does not allocate.
 * Zero-initialised is valid. */
struct message_decoder {
    msgpack_zone *zone; /* owns */
    int32_t *ints;      /* owns */
    size_t int_capacity;
    struct step_seq *seqs; /* owns */
    size_t seq_capacity;
};

/* Reads one frame that came from `side`. On failure out->seq is what the frame said, or 0, and
 * out->type its type, or MESSAGE_COUNT. Errors: PROTOCOL, MEMORY. */
bool message_decode(struct message_decoder *d, const void *bytes, size_t n, enum message_side side,
                    struct message *out, struct error *err);

/* Most bytes of the frame of a step of n_seq sequences with so many tokens and KV blocks together.
 */
size_t message_step_bytes(int n_seq, int n_tok, int n_block);
/* Room for such frames, so that reading one allocates nothing. Errors: MEMORY. */
bool message_decoder_reserve(struct message_decoder *d, int n_seq, size_t frame_bytes,
                             struct error *err);

void message_decoder_finish(struct message_decoder *d);

/* An error as the content of a message, and back; `back` keeps the kind and the message. */
void message_from_error(struct message *m, enum message_type type, uint64_t seq,
                        const struct error *err);
bool message_to_error(const struct message *m, struct error *err); /* returns false */
