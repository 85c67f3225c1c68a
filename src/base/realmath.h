/* exp, log, sin and cos in f64 from +, -, *, / and fma-free code alone, so that their bits do not
 * depend on the C library or the CPU. Accurate to a few ulp; for tables and sampling, not for
 * kernels. */
#pragma once

double realmath_exp(double x);
double realmath_log(double x); /* x > 0 */
/* *s = sin(x), *c = cos(x); |x| <= 2^27 (positions times frequencies). */
void realmath_sincos(double x, double *s, double *c);
