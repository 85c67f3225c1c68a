#include "rpc/frame_map.h"

#include <stdint.h>

#include "rpc/frame_check.h"

enum {
    FIXMAP = 0x80, /* and the number of pairs */
    FIXSTR = 0xa0, /* and the number of bytes */
    NIL = 0xc0,    /* the first head after the texts */
    UINT8 = 0xcc,
    UINT64 = 0xcf,
};

/* The object at *at, which moves past it. False: it is of another kind, or cut off. */
static bool read_object(const uint8_t **at, const uint8_t *end, msgpack_object *out) {
    const uint8_t *p = *at;
    if (p == end) {
        return false;
    }
    uint8_t head = *p++;
    size_t left = (size_t)(end - p);
    size_t width = 0;
    if (head < FIXMAP) {
        out->type = MSGPACK_OBJECT_POSITIVE_INTEGER;
        out->via.u64 = head;
    } else if (head >= FIXSTR && head < NIL) {
        width = head - FIXSTR;
        out->type = MSGPACK_OBJECT_STR;
        out->via.str.size = (uint32_t)width;
        out->via.str.ptr = (const char *)p;
    } else if (head >= UINT8 && head <= UINT64) {
        width = (size_t)1 << (head - UINT8);
        out->type = MSGPACK_OBJECT_POSITIVE_INTEGER;
        out->via.u64 = 0;
        for (size_t i = 0; i < width && i < left; i++) {
            out->via.u64 = out->via.u64 << 8 | p[i];
        }
    } else {
        return false;
    }
    *at = p + (width <= left ? width : left);
    return width <= left;
}

bool frame_map_read_flat(const void *bytes, size_t n, struct frame_map_room *room,
                         msgpack_object_map *out) {
    const uint8_t *at = bytes;
    if (n == 0 || *at < FIXMAP || *at > FIXMAP + FRAME_MAP_FLAT_PAIRS) {
        return false;
    }
    const uint8_t *end = at + n;
    uint32_t n_pair = *at++ - (uint32_t)FIXMAP;
    for (uint32_t i = 0; i < n_pair; i++) {
        msgpack_object_kv *pair = &room->pairs[i];
        if (!read_object(&at, end, &pair->key) || !read_object(&at, end, &pair->val)) {
            return false;
        }
    }
    *out = (msgpack_object_map){.size = n_pair, .ptr = room->pairs};
    return at == end;
}

bool frame_map_unpack(const void *bytes, size_t n, msgpack_zone **zone, msgpack_object_map *out,
                      struct error *err) {
    if (!frame_check(bytes, n, err)) {
        return false;
    }
    if (!*zone) {
        *zone = msgpack_zone_new(MSGPACK_ZONE_CHUNK_SIZE);
    } else {
        msgpack_zone_clear(*zone);
    }
    size_t at = 0;
    msgpack_object root;
    msgpack_unpack_return got =
        *zone ? msgpack_unpack(bytes, n, &at, *zone, &root) : MSGPACK_UNPACK_NOMEM_ERROR;
    if (got != MSGPACK_UNPACK_SUCCESS) {
        return error_set(err, got == MSGPACK_UNPACK_NOMEM_ERROR ? ERROR_MEMORY : ERROR_PROTOCOL,
                         "frame of %zu bytes: not msgpack", n);
    }
    if (root.type != MSGPACK_OBJECT_MAP) {
        return error_set(err, ERROR_PROTOCOL, "frame: not a map");
    }
    *out = root.via.map;
    return true;
}

bool frame_map_read(const void *bytes, size_t n, struct frame_map_room *room, msgpack_zone **zone,
                    msgpack_object_map *out, struct error *err) {
    return frame_map_read_flat(bytes, n, room, out) || frame_map_unpack(bytes, n, zone, out, err);
}
