/* What dropout offers, for float and double (see common/tables.h). */
#ifndef FASTBN_DROPOUT_TABLE_H
#define FASTBN_DROPOUT_TABLE_H

#include "common/tables.h"

typedef struct {
    /* first: the index of x[0], an even number; see loops.h */
    void (*dropout)(const void *x, void *y, int64_t first, int64_t n, uint64_t seed,
                    uint64_t threshold, double scale, int stream);
} dropout_simd_t;
FLOAT_TABLES(dropout)

#endif
