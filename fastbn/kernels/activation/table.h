/* What activation offers, for float and double (see common/tables.h). */
#ifndef FASTBN_ACTIVATION_TABLE_H
#define FASTBN_ACTIVATION_TABLE_H

#include "common/operations.h"
#include "common/tables.h"

typedef struct {
    void (*map)(const void *x, void *y, int64_t n, int op, double slope, int stream);
    void (*map_grad)(const void *y, const void *dy, void *dx, int64_t n, int op, double slope,
                     int stream);
    /* from MAP_ELU on */
    void (*smooth)(const void *x, void *y, int64_t n, int op, double parameter, int stream);
    void (*smooth_grad)(const void *x, const void *dy, void *dx, int64_t n, int op,
                        double parameter, int stream);
    /* rows of channels, a slope w for each; dw, which is added to, has one sum for each */
    void (*prelu)(const void *x, const void *w, void *y, int64_t rows, int64_t columns);
    void (*prelu_grad)(const void *x, const void *w, const void *dy, void *dx, double *dw,
                       int64_t rows, int64_t columns);
    void (*softmax_rows)(const void *x, void *y, int64_t rows, int64_t columns);
    void (*softmax_grad_rows)(const void *y, const void *dy, void *dx, int64_t rows,
                              int64_t columns);
} activation_simd_t;
FLOAT_TABLES(activation)

#endif
