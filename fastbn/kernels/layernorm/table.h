/* What layernorm offers (see common/tables.h). */
#ifndef FASTBN_LAYERNORM_TABLE_H
#define FASTBN_LAYERNORM_TABLE_H

#include "common/operations.h"
#include "common/tables.h"

enum { ROWS_AT_ONCE = 4 }; /* in backward: they share what belongs to a column */

/* A row as it is normalised: xhat = (x - centre) * a + e, where centre is the rounded mean, and e
 * what its rounding lost. */
typedef struct {
    double centre, a, e;
} row_t;

/* Rows of n contiguous values. Coefficients and sums are arrays of T in the order of the parts, with
 * room for whole units (unit.h). */
typedef struct {
    /* n values of weight or bias, or of `fill` where that is NULL, in that order. */
    void (*prepare)(const void *values, double fill, int64_t n, void *to);
    /* y = xhat * weight + bias */
    void (*rows_forward)(const void *x, void *y, int64_t rows, int64_t n, const row_t *f,
                         const void *weight, const void *bias, int stream);
    /* y = act(xhat * weight + bias), or where there is dy, its gradient by what is activated, which
     * goes to y; y may be dy. `op` is MAP_RELU, MAP_LEAKY or one from MAP_ELU on. */
    void (*rows_activated)(const void *x, const void *dy, void *y, int64_t rows, int64_t n,
                           const row_t *f, const void *weight, const void *bias, int op,
                           double parameter, int stream);
    /* sum = x + residual, one of which it may be: n values. `far` gets it, too, past the caches; it
     * may be NULL. */
    void (*add)(const void *x, const void *residual, void *sum, void *far, int64_t n);
    /* With g = dy * weight, dx = a * (g - mean(g) - xhat * mean(g * xhat)); without mean(g) where the
     * mean is not taken off (`rms`). At most SUM_ROWS rows. dweight and dbias grow by the sums of
     * dy * xhat and dy. NULL: not needed. */
    void (*rows_backward)(const void *x, const void *dy, void *dx, int64_t rows, int64_t n,
                          const row_t *f, const void *weight, int rms, void *room, double *dweight,
                          double *dbias, int stream);
} layernorm_simd_t;
TABLES(layernorm)

#endif
