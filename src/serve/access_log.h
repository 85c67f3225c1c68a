/* The access log, on stderr: a line for each request that is over. */
#pragma once

#include <stdbool.h>

struct access {
    const char *client;        /* its address */
    const char *method, *path; /* as the client wrote them, whatever they hold */
    int status;
    double seconds;
};

void access_log(const struct access *a, bool json);
