/* What add offers, for float and double (see common/tables.h). */
#ifndef FASTBN_ADD_TABLE_H
#define FASTBN_ADD_TABLE_H

#include "common/tables.h"

enum { MOST_TERMS = 4 };

typedef struct {
    /* y = x[0] + x[1], and so on up to `terms`, from 2 to MOST_TERMS; y may be one of them. */
    void (*sum_terms)(const void *const *x, int terms, void *y, int64_t n, int stream);
} add_simd_t;
FLOAT_TABLES(add)

#endif
