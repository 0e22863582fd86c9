/* Activations of a run of numbers, and softmax of rows.
 *
 * Gradients are computed from y (leaky ReLU with a negative slope: from x), so that y may take x's
 * place and x need not be kept.
 */
#include "common/exp.h"
#include "common/loops.h"
#include "common/row_exps.h"

static void map(const void *x_, void *y_, int64_t n, int op, double slope_, int stream)
{
    const T *x = x_;
    T *y = y_;
    const V slope = v_set((T)slope_);
#define RELU(LOAD) v_relu(LOAD(x))
#define LEAKY(LOAD) v_leaky(LOAD(x), slope)
#define SIGMOID(LOAD) v_sigmoid(LOAD(x))
#define TANH(LOAD) v_tanh(LOAD(x))
    switch (op) {
    case MAP_RELU: STORE_LOOP(y, n, stream, RELU); break;
    case MAP_LEAKY: STORE_LOOP(y, n, stream, LEAKY); break;
    case MAP_SIGMOID: STORE_LOOP(y, n, stream, SIGMOID); break;
    default: STORE_LOOP(y, n, stream, TANH); break;
    }
#undef RELU
#undef LEAKY
#undef SIGMOID
#undef TANH
}

static void map_grad(const void *y_, const void *dy_, void *dx_, int64_t n, int op, double slope_,
                     int stream)
{
    const T *y = y_, *dy = dy_;
    T *dx = dx_;
    const V slope = v_set((T)slope_), one = v_set(1);
#define RELU(LOAD) v_relu_grad(LOAD(y), LOAD(dy))
#define LEAKY(LOAD) v_leaky_grad(LOAD(y), LOAD(dy), slope)
#define SIGMOID(LOAD) LOAD(dy) * LOAD(y) * (one - LOAD(y))
#define TANH(LOAD) LOAD(dy) * v_fma(-LOAD(y), LOAD(y), one)
    switch (op) {
    case MAP_RELU: STORE_LOOP(dx, n, stream, RELU); break;
    case MAP_LEAKY: STORE_LOOP(dx, n, stream, LEAKY); break;
    case MAP_SIGMOID: STORE_LOOP(dx, n, stream, SIGMOID); break;
    default: STORE_LOOP(dx, n, stream, TANH); break;
    }
#undef RELU
#undef LEAKY
#undef SIGMOID
#undef TANH
}

/* ---- rows ---- */

static void softmax_rows(const void *x_, void *y_, int64_t rows, int64_t columns)
{
    const T *x = x_;
    T *y = y_;
    for (int64_t i = 0; i < rows; i++, x += columns, y += columns) {
        const double sum = row_exps(x, y, columns, row_top(x, columns), 1);
        const V scale = v_set((T)(1.0 / sum));
#define SCALED(LOAD) LOAD(y) * scale
        STORE_LOOP(y, columns, 0, SCALED);
#undef SCALED
    }
}

/* dx = y * (dy - sum(dy * y)) */
static void softmax_grad_rows(const void *y_, const void *dy_, void *dx_, int64_t rows,
                              int64_t columns)
{
    const T *y = y_, *dy = dy_;
    T *dx = dx_;
    for (int64_t i = 0; i < rows; i++, y += columns, dy += columns, dx += columns) {
        double sum = 0.0;
        for (int64_t first = 0; first < columns; first += SUM_BLOCK) {
            const int64_t end = columns - first < SUM_BLOCK ? columns : first + SUM_BLOCK;
            V s = v_set(0);
            int64_t j = first;
            for (; j + W <= end; j += W)
                s = v_fma(ALL_OF(dy), ALL_OF(y), s);
            if (j < end) {
                const int k = (int)(end - j);
                s = v_fma(REST_OF(dy), REST_OF(y), s);
            }
            sum += v_sum(s);
        }
        const V mean = v_set((T)sum);
#define GRADIENT_OF(LOAD) LOAD(y) * (LOAD(dy) - mean)
        STORE_LOOP(dx, columns, 0, GRADIENT_OF);
#undef GRADIENT_OF
    }
}
