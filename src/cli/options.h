/* Command-line options: one table per command gives parsing, ranges and help. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum option_type {
    OPTION_FLAG,    /* bool *, no argument */
    OPTION_STRING,  /* const char **, borrowed from argv */
    OPTION_INT,     /* int * */
    OPTION_UINT64,  /* uint64_t * */
    OPTION_DOUBLE,  /* double * */
    OPTION_BYTES,   /* uint64_t *, with suffix K, M, G (powers of 1024) */
    OPTION_STRINGS, /* struct option_strings *, may be repeated */
    OPTION_SECTION, /* a heading in the help text */
};

enum { OPTION_STRINGS_MAX = 16 };

struct option_strings {
    int n;
    const char *item[OPTION_STRINGS_MAX];
};

struct option {
    enum option_type type;
    const char *name;    /* without dashes; for SECTION the heading */
    char short_name;     /* 0: none */
    void *value;         /* where it goes; keeps its value when the option is absent */
    bool *seen;          /* set when given; may be NULL */
    const char *arg;     /* "DIR"; NULL for flags */
    const char *help;    /* '\n' breaks the line */
    double min, max;     /* numbers; both 0: no bounds */
    const char *choices; /* OPTION_STRING: "auto|host|cuda"; NULL: anything */
};

/* Parses argv[1..argc) in any order, "--name value", "--name=value", "-n value", "--" ends options.
 * Positional words end in args[0..*n_arg); more than max_arg of them is an error.
 * Errors: USAGE, naming the option, what is wrong, and what to type (nearest option name). */
bool options_parse(const struct option *table, int n, int argc, char **argv, const char **args,
                   int max_arg, int *n_arg, struct error *err);

/* Whether the flag that sets *value is among the options, whatever is wrong with the others: no
 * option takes another one's name for its value. */
bool options_has_flag(const struct option *table, int n, int argc, char **argv, const bool *value);

/* Writes the table's help, aligned, to stdout. */
void options_print_help(const struct option *table, int n);

/* True when `typed` is nearly `name` and nearer than *best, which it then updates. Start with
 * INT_MAX.
 */
bool options_near(const char *typed, const char *name, int *best);

/* Parses "1,2,3" (spaces allowed) into ids; names `what` in errors. Errors: USAGE, MEMORY. */
bool options_parse_ints(const char *text, const char *what, int32_t **out, int *n_out,
                        struct error *err);
