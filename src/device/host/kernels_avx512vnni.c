/* The AVX-512 kernels for a CPU with VNNI, which multiplies bytes and adds the products up. */
#include "device/host/kernels_avx512.c"
