/* What commands read and print: text from a file or standard input, JSON and plain text to stdout.
 * A result that could not be written is an error: a full disk must not look like success. */
#pragma once

#include <jansson.h>

#include "base/buffer.h"
#include "text/tokenizer.h"

/* Call first in main. Where a standard stream is closed, the next file or socket to be opened would
 * take its number, and results would be written into it. Reads and writes of such a stream fail
 * instead. */
void stdio_fill_closed(void);

/* What this thread does next waits for who reads or types at the other end, for as long as they
 * like: it is not stuck. Until its next pulse. */
void stdio_may_wait(void);
/* It has come to an end: what follows is work. */
void stdio_waited(void);

/* What to call an input in errors: the path, or "standard input" for "-". */
const char *stdio_name(const char *path);

/* A file's or a pipe's text, or standard input's for "-"; at most 256 MiB. A signal that wants an
 * end ends the wait for standard input. Errors (they name it): IO, INPUT, MEMORY, INTERRUPTED. */
bool stdio_read(const char *path, struct buffer *out, struct error *err);

/* The JSON of a file, or of standard input for "-". Errors: stdio_read's, JSON. */
bool stdio_read_json(const char *path, json_t **out, struct error *err);

/* Prints an object (takes it over; NULL: it could not be built) with json_dumps' flags, and a
 * newline. Errors: MEMORY, IO. */
bool stdio_print_json(json_t *object, size_t flags, struct error *err);

/* Text beside the one line of an error, to stderr: a table, say. */
void stdio_note(const char *text);

/* Flushes stdout. Errors: IO, where anything since the start could not be written. */
bool stdio_flush(struct error *err);

/* Prints token ids, separated by spaces, and a newline. */
void stdio_print_ids(const struct token_list *ids);

/* A JSON array of token ids. */
json_t *stdio_ids_json(const struct token_list *ids);
