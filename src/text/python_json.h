/* JSON as Python's json.dumps(value, ensure_ascii=False) writes it, which is what chat templates'
 * `tojson` means: ", " and ": " between items, members in the order of the file, shortest floats.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"

/* Errors: MEMORY, INPUT (nested too deep). */
bool python_json_dump(const json_t *value, struct buffer *out, struct error *err);
