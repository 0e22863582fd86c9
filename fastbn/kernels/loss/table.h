/* What loss offers, for float and double (see common/tables.h). */
#ifndef FASTBN_LOSS_TABLE_H
#define FASTBN_LOSS_TABLE_H

#include "common/tables.h"

/* A row of logits: its label, its largest value, and 1 / sum(exp(x - top)). */
typedef struct {
    int64_t label;
    double top, scale;
} ce_row_t;

typedef struct {
    double (*ce_rows)(const void *x, ce_row_t *rows, int64_t count, int64_t columns);
    void (*ce_grad_rows)(const void *x, void *dx, const ce_row_t *rows, int64_t count,
                         int64_t columns, double factor);
    double (*squares)(const void *p, const void *t, int64_t n);
    void (*difference)(const void *p, const void *t, void *dp, int64_t n, double factor,
                       int stream);
} loss_simd_t;
FLOAT_TABLES(loss)

#endif
