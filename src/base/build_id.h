/* Which build this program is: ranks of different builds must not work together. */
#pragma once

/* A hash of the sources, the version and the compiler, 16 hex digits. */
const char *build_id(void);
