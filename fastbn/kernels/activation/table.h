/* What activation offers, for float and double (see common/tables.h). */
#ifndef FASTBN_ACTIVATION_TABLE_H
#define FASTBN_ACTIVATION_TABLE_H

#include "common/tables.h"

enum { MAP_RELU = 0, MAP_LEAKY = 1, MAP_SIGMOID = 2, MAP_TANH = 3 };

typedef struct {
    void (*map)(const void *x, void *y, int64_t n, int op, double slope, int stream);
    void (*map_grad)(const void *y, const void *dy, void *dx, int64_t n, int op, double slope,
                     int stream);
    void (*softmax_rows)(const void *x, void *y, int64_t rows, int64_t columns);
    void (*softmax_grad_rows)(const void *y, const void *dy, void *dx, int64_t rows,
                              int64_t columns);
} activation_simd_t;
FLOAT_TABLES(activation)

#endif
