/* Text of unknown origin made fit for an error message: one line, short, printable. The results
 * are values, so that they can be made in the arguments of error_set. */
#pragma once

#include <stdint.h>

struct shown {
    char text[180];
};

/* A name or value from a file: control characters (U+009B, too) become '?', and what is longer than
 * 90 bytes ends in "..." (cut between characters). NULL shows as "". */
struct shown show_text(const char *s);

/* A path: control characters become '?', and of a long one the end is kept, "...end/of/path". */
struct shown show_path(const char *path);

/* Control characters become '?', in place; the text keeps its length or gets shorter. */
void show_in_place(char *text);

/* A size for people: "512 B", "1.5 KiB", "14.2 GiB". */
struct shown show_bytes(uint64_t bytes);
