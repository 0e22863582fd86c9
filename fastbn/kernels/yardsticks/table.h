/* What the yardsticks offer (see common/tables.h). */
#ifndef FASTBN_YARDSTICKS_TABLE_H
#define FASTBN_YARDSTICKS_TABLE_H

#include "common/tables.h"

typedef struct {
    int64_t (*read_bytes)(const void *x, int64_t n);
    void (*stream_copy)(const void *x, void *y, int64_t n);
    void (*triad)(const void *a, const void *b, void *y, int64_t n, int stream);
    int a_round; /* multiply-adds in a round */
    double (*multiply_adds)(int64_t rounds);
} yardsticks_simd_t; /* the first three move bytes, whatever the element type */
FLOAT_TABLES(yardsticks)

#endif
