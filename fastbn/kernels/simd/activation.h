/* Activations of a run of numbers, and softmax of rows.
 *
 * Gradients are computed from y (leaky ReLU with a negative slope: from x), so that y may take x's
 * place and x need not be kept.
 */
#if !defined(FASTBN_BF16) && !defined(FASTBN_ACTIVATION_H)
#define FASTBN_ACTIVATION_H

#include "exp.h"
#include "loops.h"

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

/* y = x[0] + x[1], + x[2] and + x[3] if there are 3 or 4 terms; y may be one of them. */
static void sum_terms(const void *const *x_, int terms, void *y_, int64_t n, int stream)
{
    const T *const *x = (const T *const *)x_;
    T *y = y_;
#define TWO(LOAD) LOAD(x[0]) + LOAD(x[1])
#define THREE(LOAD) LOAD(x[0]) + LOAD(x[1]) + LOAD(x[2])
#define FOUR(LOAD) LOAD(x[0]) + LOAD(x[1]) + LOAD(x[2]) + LOAD(x[3])
    switch (terms) {
    case 2: STORE_LOOP(y, n, stream, TWO); break;
    case 3: STORE_LOOP(y, n, stream, THREE); break;
    default: STORE_LOOP(y, n, stream, FOUR); break;
    }
#undef TWO
#undef THREE
#undef FOUR
}

/* ---- rows ---- */

enum { SUM_BLOCK = 512 }; /* values that are summed in T; blocks are summed in float64 */

/* The largest of a row. NaN is passed over: exp(NaN - top) tells the sum. */
static T row_top(const T *x, int64_t n)
{
    const V least = v_set(-INFINITY);
    V t0 = least, t1 = least;
    int64_t j = 0;
    for (; j + 2 * W <= n; j += 2 * W) {
        t0 = v_max(v_loadt(x + j), t0);
        t1 = v_max(v_loadt(x + j + W), t1);
    }
    for (; j + W <= n; j += W)
        t0 = v_max(v_loadt(x + j), t0);
    if (j < n)
        t1 = v_max(v_loadt_or(x + j, (int)(n - j), -INFINITY), t1);
    return v_top(v_max(t0, t1));
}

/* The sum of e = exp(x - top) over a row; with `keep`, e is stored. */
INLINE double row_exps(const T *x, T *e, int64_t n, T top_, const int keep)
{
    const V top = v_set(top_);
    double sum = 0.0;
    for (int64_t first = 0; first < n; first += SUM_BLOCK) {
        const int64_t end = n - first < SUM_BLOCK ? n : first + SUM_BLOCK;
        V s0 = v_set(0), s1 = s0;
        int64_t j = first;
        for (; j + 2 * W <= end; j += 2 * W) {
            const V value = v_exp_down(ALL_OF(x) - top);
            const V next = v_exp_down(v_loadt(x + j + W) - top);
            s0 += value;
            s1 += next;
            if (keep) {
                v_storet(e + j, value);
                v_storet(e + j + W, next);
            }
        }
        for (; j + W <= end; j += W) {
            const V value = v_exp_down(ALL_OF(x) - top);
            s0 += value;
            if (keep)
                v_storet(e + j, value);
        }
        if (j < end) {
            const int k = (int)(end - j);
            const V value = v_exp_down(v_loadt_or(x + j, k, -INFINITY) - top);
            s1 += value;
            if (keep)
                v_storet_part(e + j, value, k);
        }
        sum += v_sum(s0 + s1);
    }
    return sum;
}

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
#endif
