/* Which cores a rank is bound to, and on which NUMA nodes of its host they lie. */
#pragma once

#include <sched.h>

struct binding {
    char cores[96];  /* as the kernel writes lists, "0-3,8"; cut with "..." where too long */
    char nodes[48];  /* NUMA nodes of these cores, alike; empty where the host does not say */
    int n_node;      /* how many these are */
    int n_node_host; /* of the host, those with cores; 0: the host does not say */
};

/* `root` stands before /sys/devices/system/node, "" outside of tests. */
void binding_read(const char *root, const cpu_set_t *cores, struct binding *out);
