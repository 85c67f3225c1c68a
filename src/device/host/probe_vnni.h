/* The int8 peak by AVX-512 VNNI; see kernels.h, int8_peak. */
#pragma once

int probe_vnni_peak(long rounds, float *sink);
