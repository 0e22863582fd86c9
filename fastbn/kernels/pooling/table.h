/* What pooling offers, for float and double (see common/tables.h). */
#ifndef FASTBN_POOLING_TABLE_H
#define FASTBN_POOLING_TABLE_H

#include "common/tables.h"

enum { NARROW_TAPS = 255 }; /* fewer taps fit a byte, beside this number of no tap */

/* Windows over x (N, in_h, in_w, channels), y (N, out_h, out_w, channels). */
typedef struct {
    int64_t in_h, in_w, channels, out_h, out_w;
    int64_t kh, kw, sh, sw, ph, pw, dh, dw; /* kernel, stride, padding, dilation */
    /* Backward: row i of x is seen by the rows of y out[first[i]] ... out[first[i + 1] - 1], at
     * the rows of their windows tap[...]. */
    const int32_t *first, *out, *tap;
    /* Means: how many rows and columns of a window are divided by, for every row and column of y.
     * */
    const int32_t *row_count, *column_count;
    int wide; /* winners are int32, not uint8 */
} pool_t;

typedef struct {
    void (*max_row)(const pool_t *g, const void *x, void *y, void *winners, int64_t out);
    void (*max_grad_row)(const pool_t *g, const void *dy, const void *winners, void *dx,
                         int64_t row);
    void (*avg_row)(const pool_t *g, const void *x, void *y, int64_t out);
    void (*avg_grad_row)(const pool_t *g, const void *dy, void *dx, int64_t row);
    void (*pixel_means)(const void *x, void *y, int64_t pixels, int64_t channels, int64_t ld);
    void (*pixel_shares)(const void *dy, void *dx, int64_t pixels, int64_t channels, int64_t total,
                         int stream);
    void (*stream_copy)(const void *x, void *y, int64_t n); /* n bytes */
} pooling_simd_t;
FLOAT_TABLES(pooling)

#endif
