/* A frame's shape, checked before msgpack-c sees it: msgpack-c allocates what an array's header
 * claims. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Checks that the bytes are exactly one msgpack object, nested at most 8 deep, whose containers
 * claim no more than the bytes can hold. Errors: PROTOCOL. */
bool frame_check(const void *bytes, size_t n, struct error *err);
