/* The launcher's children on this host, found in /proc: the ranks, before they know each other. */
#pragma once

#include <stdbool.h>

enum { SIBLINGS_NAME = 32 };

/* True where the parent is a launcher or its daemon, and puts its name there; else a script may
 * stand between it and its ranks, and nobody is known to be a sibling. */
bool siblings_launcher(char name[SIBLINGS_NAME]);

/* All is said: SIGUSR2 tells the others to leave it at that. */
void siblings_tell(void);

/* Whether this rank is the one to speak: the lowest that lives on the host of rank 0, as far as the
 * launcher has dealt ranks out host by host. *lost: who has ended there; -1: nobody, or it is not
 * known. */
bool siblings_is_first(int *lost);
