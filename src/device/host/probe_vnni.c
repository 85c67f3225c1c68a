/* The int8 peak where AVX-512 has an instruction for it. Compiled with that; called only where the
 * CPU has it. */
#include "device/host/probe_vnni.h"

#include <immintrin.h>
#include <stdint.h>

enum { CHAINS = 12, WIDTH = 16 };

int probe_vnni_peak(long rounds, float *sink) {
    __m512i acc[CHAINS];
    const __m512i x = _mm512_set1_epi32(0x01020304);
    for (int i = 0; i < CHAINS; i++) {
        acc[i] = _mm512_set1_epi32(0x01010101 * (i + 1));
    }
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) {
            acc[i] = _mm512_dpbusd_epi32(acc[i], acc[i], x);
        }
    }
    for (int i = 1; i < CHAINS; i++) {
        acc[0] = _mm512_xor_si512(acc[0], acc[i]);
    }
    *sink = (float)_mm512_reduce_add_epi32(acc[0]);
    return 4 * CHAINS * WIDTH;
}
