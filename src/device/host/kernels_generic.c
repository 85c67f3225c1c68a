#include "device/host/vec_generic.h"

#define KERNELS            generic
#define LINEAR_TILES(X)    X(1, 2) X(2, 1) X(3, 1) X(4, 1)
#define LINEAR_TILE        4
#define GROUP_TILES(X)     X(1, 1, 1) X(2, 1, 1) X(3, 1, 1) X(4, 1, 1)
#define GROUP_TILE         4
#define ATTENTION_TILES(X) X(1) X(2)
#define ATTENTION_TILE     2
#define ATTENTION_VECS     2
#define PEAK_CHAINS        4

#include "device/host/kernels_body.h"
