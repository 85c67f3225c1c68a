/* Errors travel up by value: a kind, which names the class on the wire and picks the exit code,
 * and one sentence for a person. No layer below cli/ prints an error or ends the process. */
#pragma once

#include <stdbool.h>

/* X(symbol, name on the wire, exit code). Names are part of the protocol: add, never rename. */
#define ERROR_KINDS(X)                                                                             \
    X(ERROR_NONE, "none", 0)                                                                       \
    X(ERROR_USAGE, "usage", 2)                                                                     \
    X(ERROR_IO, "io", 2)                                                                           \
    X(ERROR_CONFIG, "bad_config", 2)         /* config.json and its siblings */                    \
    X(ERROR_JSON, "bad_json", 2)             /* not JSON at all */                                 \
    X(ERROR_ST_HEADER, "st_header", 2)       /* safetensors: malformed header */                   \
    X(ERROR_ST_TRUNCATED, "st_truncated", 2) /* safetensors: file shorter than it claims */        \
    X(ERROR_ST_TENSOR, "st_tensor", 2)       /* safetensors: a tensor missing or of wrong shape */ \
    X(ERROR_TOKENIZER, "bad_tokenizer", 2)                                                         \
    X(ERROR_INPUT, "bad_input", 2) /* prompt, ids, chat messages */                                \
    X(ERROR_UNSUPPORTED, "unsupported", 2)                                                         \
    X(ERROR_MEMORY, "no_memory", 2) /* would not fit, or an allocation failed */                   \
    X(ERROR_BUSY, "busy", 2)        /* as many requests wait as may */                             \
    X(ERROR_SHAPE, "shape", 2)      /* arguments that do not fit each other */                     \
    X(ERROR_COMM, "comm_failed", 3)                                                                \
    X(ERROR_COMM_INIT, "comm_init_failed", 3)                                                      \
    X(ERROR_NCCL_INIT, "nccl_init_failed", 3)                                                      \
    X(ERROR_COMM_NOT_INIT, "comm_not_initialised", 3)                                              \
    X(ERROR_DEVICE, "device_failed", 3)                                                            \
    X(ERROR_PROTOCOL, "protocol", 3)        /* malformed, unknown or unexpected frame */           \
    X(ERROR_VERSION, "version_mismatch", 3) /* ranks run different builds */                       \
    X(ERROR_DEADLINE, "deadline", 4)                                                               \
    X(ERROR_RANK_LOST, "rank_lost", 5)                                                             \
    X(ERROR_RANK_MISMATCH, "rank_mismatch", 3)                                                     \
    X(ERROR_WRONG_RESULT, "wrong_result", 7)                                                       \
    X(ERROR_INTERRUPTED, "interrupted", 130) /* Ctrl-C or SIGTERM: a clean, early end */           \
    X(ERROR_INTERNAL, "internal", 3)

enum error_kind {
#define X(symbol, name, code) symbol,
    ERROR_KINDS(X)
#undef X
        ERROR_KIND_COUNT
};

struct error {
    enum error_kind kind;
    int rank; /* the rank it happened on, valid when has_rank */
    bool has_rank;
    char message[480];
};

/* Sets kind and message; returns false, so that `return error_set(...)` reads well.
 * err may be NULL (nothing is stored). */
bool error_set(struct error *err, enum error_kind kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts a formatted prefix and ": " before the message: "layer 7: ..."; returns false. */
bool error_wrap(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Notes the rank the error happened on, unless one is noted already; returns false. */
bool error_at_rank(struct error *err, int rank);

const char *error_kind_name(enum error_kind kind);

/* Kind of a wire name; ERROR_INTERNAL for a name this build does not know. */
enum error_kind error_kind_from_name(const char *name);

/* Process exit code of the kind (DESIGN: 2 usage and files, 3 communicator, 4 deadline, ...). */
int error_exit_code(enum error_kind kind);
