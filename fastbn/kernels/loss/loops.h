/* Losses of rows or runs, and their gradients. Sums are of type T inside a block and float64
 * beyond; the gradient of the cross-entropy computes exp(x - top) again instead of storing it. */
#include "common/row_exps.h"

/* The sum over rows of log(sum(exp(x))) - x[label]; top and scale of each row are filled in.
 * The sums, each from 1 to `columns`, are multiplied, so that there is one logarithm for many. */
static double ce_rows(const void *x_, ce_row_t *rows, int64_t count, int64_t columns)
{
    const T *x = x_;
    double losses = 0.0, product = 1.0;
    for (int64_t i = 0; i < count; i++, x += columns) {
        const T top = row_top(x, columns);
        const double sum = row_exps(x, NULL, columns, top, 0);
        rows[i].top = (double)top;
        rows[i].scale = 1.0 / sum;
        losses += (double)top - (double)x[rows[i].label];
        product *= sum;
        if (product > 1e200) {
            losses += log(product);
            product = 1.0;
        }
    }
    return losses + log(product);
}

/* dx = factor * (softmax(x) - onehot(label)) */
static void ce_grad_rows(const void *x_, void *dx_, const ce_row_t *rows, int64_t count,
                         int64_t columns, double factor)
{
    const T *x = x_;
    T *dx = dx_;
    for (int64_t i = 0; i < count; i++, x += columns, dx += columns) {
        const V top = v_set((T)rows[i].top), scale = v_set((T)(rows[i].scale * factor));
#define SHARE(LOAD) v_exp_down(LOAD(x) - top) * scale
        STORE_LOOP(dx, columns, 0, SHARE);
#undef SHARE
        dx[rows[i].label] -= (T)factor;
    }
}

/* The sum of (p - t)^2; of a block whose squares leave T's range, in float64. */
static double squares(const void *p_, const void *t_, int64_t n)
{
    const T *p = p_, *t = t_;
    double sum = 0.0;
    for (int64_t first = 0; first < n; first += SUM_BLOCK) {
        const int64_t end = n - first < SUM_BLOCK ? n : first + SUM_BLOCK;
        V s0 = v_set(0), s1 = s0;
        int64_t j = first;
        for (; j + 2 * W <= end; j += 2 * W) {
            const V d0 = v_loadt(p + j) - v_loadt(t + j);
            const V d1 = v_loadt(p + j + W) - v_loadt(t + j + W);
            s0 = v_fma(d0, d0, s0);
            s1 = v_fma(d1, d1, s1);
        }
        for (; j + W <= end; j += W) {
            const V d = ALL_OF(p) - ALL_OF(t);
            s0 = v_fma(d, d, s0);
        }
        if (j < end) {
            const int k = (int)(end - j);
            const V d = REST_OF(p) - REST_OF(t);
            s1 = v_fma(d, d, s1);
        }
        double block = v_sum(s0 + s1);
#if !defined(FASTBN_F64)
        if (!(block < 1e37 && block > 1e-30)) {
            block = 0.0;
            for (j = first; j < end; j++) {
                const double d = (double)p[j] - (double)t[j];
                block += d * d;
            }
        }
#endif
        sum += block;
    }
    return sum;
}

/* dp = factor * (p - t) */
static void difference(const void *p_, const void *t_, void *dp_, int64_t n, double factor_,
                       int stream)
{
    const T *p = p_, *t = t_;
    T *dp = dp_;
    const V factor = v_set((T)factor_);
#define SCALED(LOAD) (LOAD(p) - LOAD(t)) * factor
    STORE_LOOP(dp, n, stream, SCALED);
#undef SCALED
}
