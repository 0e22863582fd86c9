/* What optim offers, for float and double (see common/tables.h). */
#ifndef FASTBN_OPTIM_TABLE_H
#define FASTBN_OPTIM_TABLE_H

#include "common/tables.h"

/* What a step of an optimizer does with a value p, its gradient g and its state. */
typedef struct {
    double lr, momentum, decay;
    int nesterov;
} sgd_t;

typedef struct {
    double step; /* lr / (1 - beta1^t) */
    double beta1, beta2;
    double correction; /* 1 / sqrt(1 - beta2^t) */
    double eps, decay;
    double keep; /* decoupled decay: what is left of p, 1 - lr * decay; else 1 */
} adam_t;

typedef struct {
    void (*sgd)(void *p, const void *g, void *momentum, int64_t n, const sgd_t *s);
    void (*adam)(void *p, const void *g, void *m, void *v, int64_t n, const adam_t *s);
} optim_simd_t;
FLOAT_TABLES(optim)

#endif
