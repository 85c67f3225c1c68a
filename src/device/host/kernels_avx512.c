#include "device/host/vec_avx512.h"

#ifdef __AVX512VNNI__
#define KERNELS avx512vnni
#else
#define KERNELS avx512
#endif
#define LINEAR_TILES(X) X(1, 8) X(2, 8) X(3, 8) X(4, 6) X(5, 4) X(6, 4)
#define LINEAR_TILE     6
#define GROUP_TILES(X)                                                                             \
    X(1, 8, 1) X(2, 8, 2) X(3, 4, 2) X(4, 4, 2) X(5, 2, 2) X(6, 2, 2) X(7, 2, 2) X(8, 2, 2)
#define GROUP_TILE         8
#define ATTENTION_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define ATTENTION_TILE     6
#define ATTENTION_VECS     4
#define PEAK_CHAINS        12

#include "device/host/kernels_body.h"
