/* The kernels, from one source for every instruction set. The file that includes this has included
 * a vec_*.h and defined
 *   KERNELS            the name, for host_kernels_##name
 *   LINEAR_TILES(X)    X(T, P) for T = 1 .. LINEAR_TILE: T tokens by P panels fit the registers
 *   LINEAR_TILE
 *   GROUP_TILES(X)     X(T, P, I) for T = 1 .. GROUP_TILE, the same of quantized weights; sums of
 *   GROUP_TILE         I of the panels at a time
 *   ATTENTION_TILES(X) X(T) for T = 1 .. ATTENTION_TILE
 *   ATTENTION_TILE, ATTENTION_VECS (whole panels, a divisor of KV_BLOCK / VEC_WIDTH)
 *   PEAK_CHAINS        independent multiply-adds that fill the pipeline */
#pragma once

#include <math.h>
#include <string.h>

#include "base/widen.h"
#include "device/host/kernels.h"
#include "device/host/vec_math.h"

static const struct linear_tiles linear_tiles = {LINEAR_TILE,
                                                 {
#define ENTRY(T, P) [T] = P,
                                                     LINEAR_TILES(ENTRY)
#undef ENTRY
                                                 }};
static const struct linear_tiles group_tiles = {GROUP_TILE,
                                                {
#define ENTRY(T, P, I) [T] = P,
                                                    GROUP_TILES(ENTRY)
#undef ENTRY
                                                }};

static inline const struct linear_tiles *linear_tiles_of(enum dtype dtype) {
    return dtype_is_quantized(dtype) ? &group_tiles : &linear_tiles;
}

#include "device/host/kernels_chain.h"
#include "device/host/kernels_groups.h"
#include "device/host/kernels_rows.h"

#include "device/host/kernels_attention.h"
#include "device/host/kernels_linear.h"
#include "device/host/kernels_logits.h"
#include "device/host/kernels_pack.h"
#include "device/host/kernels_probe.h"

#define KERNELS_TABLE_(name) host_kernels_##name
#define KERNELS_TABLE(name)  KERNELS_TABLE_(name)
#define KERNELS_TEXT_(name)  #name
#define KERNELS_TEXT(name)   KERNELS_TEXT_(name)

const struct host_kernels KERNELS_TABLE(KERNELS) = {
    .name = KERNELS_TEXT(KERNELS),
    .plain = &linear_tiles,
    .quantized = &group_tiles,
    .quantize_token = kernel_quantize_token,
    .linear = kernel_linear,
    .attention = kernel_attention,
    .attention_merge = kernel_attention_merge,
    .rope = kernel_rope,
    .rmsnorm = kernel_rmsnorm,
    .add = kernel_add,
    .silu_mul = kernel_silu_mul,
    .skip_until_above = kernel_skip_until_above,
    .max = kernel_max,
    .exp_sum = kernel_exp_sum,
    .sum_above = kernel_sum_above,
    .count_above = kernel_count_above,
    .interleave = kernel_interleave,
    .quantize_row = kernel_quantize_row,
    .count_nonfinite = kernel_count_nonfinite,
    .stream = kernel_stream,
    .fma_peak = kernel_fma_peak,
    .int8_peak = kernel_int8_peak,
};
