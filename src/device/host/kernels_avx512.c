#include "device/host/vec_avx512.h"

#define KERNELS            avx512
#define LINEAR_TILES(X)    X(1, 8) X(2, 8) X(3, 8) X(4, 6) X(5, 4) X(6, 4)
#define LINEAR_TILE        6
#define ATTENTION_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define ATTENTION_TILE     6
#define ATTENTION_VECS     4
#define PEAK_CHAINS        12

#include "device/host/kernels_body.h"
