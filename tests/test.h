/* What every cmocka test includes first. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"

/* Asserts that a call succeeded, and shows its error where it did not. */
#define assert_ok(call, err)                                                                       \
    do {                                                                                           \
        if (!(call)) {                                                                             \
            fail_msg("%s: %s: %s", #call, error_kind_name((err)->kind), (err)->message);           \
        }                                                                                          \
    } while (0)
