#include "base/random.h"

static uint64_t rotl(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

void random_init(struct random *r, uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        r->s[i] = random_mix(seed += RANDOM_STEP);
    }
}

uint64_t random_u64(struct random *r) {
    uint64_t *s = r->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double random_unit(struct random *r) {
    return (double)(random_u64(r) >> 11) * 0x1.0p-53;
}
