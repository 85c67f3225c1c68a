/* A descriptor that becomes readable when another thread says so: for poll, beside others. */
#pragma once

#include "base/error.h"

/* Not raised yet; to be closed. Errors: INTERNAL. */
bool wakeup_open(int *out, struct error *err);

/* Makes it readable, until it is lowered. From any thread. */
void wakeup_raise(int fd);

/* It may not be raised at all. */
void wakeup_lower(int fd);
