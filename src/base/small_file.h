/* Small files that others wait for: a reader finds them whole, or not at all. */
#pragma once

#include <stdbool.h>

/* Writes a line beside its place and moves it there. What is no regular file, such as /dev/stderr
 * or a link, is written to as it is. False: errno says why, and what was there before stays. */
bool small_file_write(const char *path, const char *line);

/* Only a regular file. */
void small_file_remove(const char *path);
