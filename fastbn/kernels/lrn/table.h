/* What lrn offers, for float and double (see common/tables.h). */
#ifndef FASTBN_LRN_TABLE_H
#define FASTBN_LRN_TABLE_H

#include "common/tables.h"

/* Local response normalisation of rows of n channels: s = k + scale * the sum of x^2 over a window
 * of `before` channels in front, the channel itself and `behind` behind it; y = x s^-beta. */
typedef struct {
    int64_t n, before, behind;
    double scale, beta, k;
} lrn_t;

enum { LRN_ROWS = 4 }; /* of lrn_pitch(f) values of T in `room` */

typedef struct {
    void (*rows)(const void *x, void *y, int64_t rows, const lrn_t *f, void *room);
    /* dx may be dy */
    void (*grad_rows)(const void *x, const void *dy, void *dx, int64_t rows, const lrn_t *f,
                      void *room);
} lrn_simd_t;
FLOAT_TABLES(lrn)

/* A row between the zeros that its first and last windows reach into, and a vector to spare. */
static inline int64_t lrn_pitch(const lrn_t *f) { return f->n + f->before + f->behind + 16; }

#endif
