/* Files of Open MPI's shared memory that killed runs have left behind: nobody removes them, and
 * where they lie is memory. */
#pragma once

#include <stdint.h>

struct segments {
    int n;
    uint64_t bytes;
    char pattern[200]; /* for rm: "/dev/shm/vader_segment.node1.0.{1a2b0001,33440001}.*" */
    int n_job;         /* runs, and how many of them the pattern names */
    int n_named;
};

/* This user's on this host, of runs of which no process has a segment mapped, and none was touched
 * for a minute. Where they lie: OMPI_MCA_btl_vader_backing_directory, else /dev/shm. */
void segments_find(struct segments *out);
