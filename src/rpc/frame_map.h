/* A frame's bytes as the map that they are. Two ways give the same: a frame of texts and unsigned
 * integers alone, as most are, is read directly, since a round trip pays for it four times; any
 * other is checked, then unpacked by msgpack-c in five times the time. */
#pragma once

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { FRAME_MAP_FLAT_PAIRS = 15 };

/* The pairs of a frame that was read directly. */
struct frame_map_room {
    msgpack_object_kv pairs[FRAME_MAP_FLAT_PAIRS];
};

/* `out` borrows `bytes`, `room` and *zone, which is made when it is first needed, and is reused.
 * Errors: PROTOCOL, MEMORY. */
bool frame_map_read(const void *bytes, size_t n, struct frame_map_room *room, msgpack_zone **zone,
                    msgpack_object_map *out, struct error *err);

/* The direct way. False: the frame needs the other one; it may be valid or not. */
bool frame_map_read_flat(const void *bytes, size_t n, struct frame_map_room *room,
                         msgpack_object_map *out);

/* The other way. */
bool frame_map_unpack(const void *bytes, size_t n, msgpack_zone **zone, msgpack_object_map *out,
                      struct error *err);
