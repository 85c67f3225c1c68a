#include "worker/binding.h"

#include <hwloc/bitmap.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A list of the kernel's, "0-3,8", as a set; false where there is none. */
static bool read_list(const char *root, const char *name, hwloc_bitmap_t set) {
    char path[512], line[4096];
    snprintf(path, sizeof path, "%s/sys/devices/system/node/%s", root, name);
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(line, sizeof line, f);
    if (f) {
        fclose(f);
    }
    if (!ok) {
        return false;
    }
    line[strcspn(line, "\n")] = 0;
    return hwloc_bitmap_list_sscanf(set, line) == 0;
}

static void write_list(char *out, size_t size, hwloc_const_bitmap_t set) {
    static const char cut[] = "...";
    int n = hwloc_bitmap_list_snprintf(out, size, set);
    if (n >= (int)size) {
        memcpy(out + size - sizeof cut, cut, sizeof cut);
    }
}

static void find_nodes(const char *root, hwloc_const_bitmap_t cores, struct binding *out) {
    hwloc_bitmap_t online = hwloc_bitmap_alloc(), of_node = hwloc_bitmap_alloc();
    hwloc_bitmap_t mine = hwloc_bitmap_alloc();
    bool ok = online && of_node && mine && read_list(root, "online", online) &&
              hwloc_bitmap_weight(online) > 0; /* -1: without end */
    for (int node = ok ? hwloc_bitmap_first(online) : -1; node >= 0;
         node = hwloc_bitmap_next(online, node)) {
        char name[32];
        snprintf(name, sizeof name, "node%d/cpulist", node);
        if (read_list(root, name, of_node) && !hwloc_bitmap_iszero(of_node)) {
            out->n_node_host++;
            if (hwloc_bitmap_intersects(of_node, cores)) {
                out->n_node++;
                hwloc_bitmap_set(mine, (unsigned)node);
            }
        }
    }
    if (out->n_node > 0) {
        write_list(out->nodes, sizeof out->nodes, mine);
    }
    hwloc_bitmap_free(online);
    hwloc_bitmap_free(of_node);
    hwloc_bitmap_free(mine);
}

void binding_read(const char *root, const cpu_set_t *cores, struct binding *out) {
    *out = (struct binding){.n_node = 0};
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (!set) {
        return;
    }
    for (unsigned i = 0; i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, cores)) {
            hwloc_bitmap_set(set, i);
        }
    }
    write_list(out->cores, sizeof out->cores, set);
    find_nodes(root, set, out);
    hwloc_bitmap_free(set);
}
