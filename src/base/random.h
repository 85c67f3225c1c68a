/* A small random generator, the same on every machine: xoshiro256** seeded by splitmix64
 * (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2021). Not for secrets.
 */
#pragma once

#include <stdint.h>

struct random {
    uint64_t s[4];
};

void random_init(struct random *r, uint64_t seed);
uint64_t random_u64(struct random *r);
/* Uniform in [0, 1), 53 bits. */
double random_unit(struct random *r);
