/* What conv offers beside the products of matmul, for float and double (see common/tables.h,
 * winograd.h and depthwise.h). */
#ifndef FASTBN_CONV_TABLE_H
#define FASTBN_CONV_TABLE_H

#include "common/tables.h"

typedef struct {
    void (*windows)(const void *const *rows, int64_t width, int64_t first, int64_t channels,
                    int64_t tiles, const void *zeros, void *to, int64_t step, int64_t apart,
                    int64_t pitch);
    int (*outputs)(const void *u, int64_t step, int64_t pitch, int64_t tiles, int64_t channels,
                   const void *bias, void *y, int64_t high, int64_t width);
    void (*spread)(const void *dy, int64_t high, int64_t width, int64_t channels, int64_t tiles,
                   void *to, int64_t apart, int64_t pitch);
    void (*filters)(const void *g, int64_t n, void *to, int64_t pitch);
    int (*gradients)(const void *u, int64_t n, int64_t pitch, void *to, int64_t apart);
} winograd_simd_t;

typedef struct {
    winograd_simd_t winograd[2]; /* for tiles of 2x2 and of 4x4 outputs */
    void (*depth_rows)(int64_t taps, const void **x, const void *const *w, int64_t count,
                       int64_t x_step, void *y, int64_t y_step, int64_t channels, const void *bias,
                       int prefetch);
    void (*depth_sums)(int64_t taps, const void *const *x, const void *dy, int64_t count,
                       int64_t x_step, int64_t y_step, int64_t channels, void *const *dw);
} conv_simd_t;
FLOAT_TABLES(conv)

#endif
