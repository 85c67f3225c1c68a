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

#define RANDOM_STEP 0x9e3779b97f4a7c15u

/* splitmix64's output for a state. */
static inline uint64_t random_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Number i of a sequence that keeps no state, so that any part of it can be had alone. */
static inline uint64_t random_at(uint64_t i) {
    return random_mix((i + 1) * RANDOM_STEP);
}
