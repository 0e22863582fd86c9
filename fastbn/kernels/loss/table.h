/* What loss offers, for float and double (see common/tables.h). */
#ifndef FASTBN_LOSS_TABLE_H
#define FASTBN_LOSS_TABLE_H

#include "common/tables.h"

/* A row of logits: its label, its largest value, and 1 / sum(exp(x - top)). */
typedef struct {
    int64_t label;
    double top, scale;
} ce_row_t;

/* What a row is compared with where that is more than a label: the numbers
 *   t = w (hit p + spread)
 * with the class weights w and the probabilities p; where there is a label, `hit` holds the weight
 * of its class already. `total` is their sum. All zero: the row is passed over. */
typedef struct {
    double hit, spread, total;
} ce_share_t;

/* Losses of pairs of numbers. */
enum { LOSS_SQUARED, LOSS_ABSOLUTE, LOSS_HUBER, LOSS_LOGISTIC };

typedef struct {
    double (*ce_rows)(const void *x, ce_row_t *rows, int64_t count, int64_t columns);
    void (*ce_grad_rows)(const void *x, void *dx, const ce_row_t *rows, int64_t count,
                         int64_t columns, double factor);
    /* the same with shares; w and p may be NULL */
    double (*ce_shared_rows)(const void *x, const void *w, const void *p, ce_row_t *rows,
                             ce_share_t *shares, int64_t count, int64_t columns);
    void (*ce_shared_grad_rows)(const void *x, const void *w, const void *p, void *dx,
                                const ce_row_t *rows, const ce_share_t *shares, int64_t count,
                                int64_t columns, double factor);
    double (*pairs)(const void *x, const void *t, int64_t n, int op, double delta);
    void (*pairs_grad)(const void *x, const void *t, void *dx, int64_t n, int op, double delta,
                       double factor, int stream);
} loss_simd_t;
FLOAT_TABLES(loss)

#endif
