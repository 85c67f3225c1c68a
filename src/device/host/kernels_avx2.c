#include "device/host/vec_avx2.h"

#define KERNELS            avx2
#define LINEAR_TILES(X)    X(1, 6) X(2, 2) X(3, 1) X(4, 1) X(5, 1) X(6, 1)
#define LINEAR_TILE        6
#define GROUP_TILES(X)     X(1, 4, 1) X(2, 2, 1) X(3, 1, 1) X(4, 1, 1)
#define GROUP_TILE         4
#define ATTENTION_TILES(X) X(1) X(2) X(3)
#define ATTENTION_TILE     3
#define ATTENTION_VECS     2
#define PEAK_CHAINS        6

#include "device/host/kernels_body.h"
