/* The control groups that this process is in, version 2 and 1, in a container or not.
 * https://docs.kernel.org/admin-guide/cgroup-v2.html, .../cgroup-v1/cgroups.html */
#pragma once

#include <stdbool.h>
#include <stdio.h>

enum { CGROUP_NAME = 1024 };

/* Opens root and path for reading, as fopen does. root: a folder that holds the proc and sys to
 * read, "" for the real ones. */
FILE *root_open(const char *root, const char *path);

/* This process's group of a controller, "" for version 2: where it lies below the mount, "" if that
 * is the mount itself. False where there is none. */
bool cgroup_find(const char *root, const char *controller, char group[CGROUP_NAME]);

/* From a group to the one above it, whose limits hold for it too; false from the mount on. A
 * container may see its own group as the mount, whatever it is called outside. */
bool cgroup_up(char group[CGROUP_NAME]);

/* Cores of CPU time that the groups grant; INFINITY where nothing limits. */
double cgroup_cores(const char *root);
