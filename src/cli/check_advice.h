/* The usual mistakes, recognised from what the ranks say about themselves. */
#pragma once

#include "cli/check_report.h"

enum { CHECK_ADVICE_MAX = 8, CHECK_ADVICE_LENGTH = 320 };

/* Fills one plain sentence per mistake, each saying what to do; returns how many. */
int check_advice(const struct check_report *r, char out[][CHECK_ADVICE_LENGTH]);
