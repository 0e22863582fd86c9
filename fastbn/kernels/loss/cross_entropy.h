/* Cross-entropy of rows, and its gradient, which computes exp(x - top) again instead of storing it.
 * Sums are of type T inside a block and float64 beyond. */
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

/* ---- rows that are compared with shares: see ce_share_t ---- */

/* The sum over a row of t (x - top); with probabilities, *total is the sum of t. */
INLINE double row_shared(const T *x, const T *w, const T *p, int64_t n, T top_, double hit_,
                         double spread_, double *total)
{
    const V top = v_set(top_), hit = v_set((T)hit_), spread = v_set((T)spread_);
    double dot = 0.0, sum = 0.0;
    for (int64_t first = 0; first < n; first += SUM_BLOCK) {
        const int64_t end = n - first < SUM_BLOCK ? n : first + SUM_BLOCK;
        V d = v_set(0), s = d;
        int64_t j = first;
#define SHARE_OF(LOAD) (p ? v_fma(hit, LOAD(p), spread) : spread)
#define WEIGHED(LOAD) (w ? SHARE_OF(LOAD) * LOAD(w) : SHARE_OF(LOAD))
        for (; j + W <= end; j += W) {
            const V t = WEIGHED(ALL_OF);
            s += t;
            d = v_fma(t, ALL_OF(x) - top, d);
        }
        if (j < end) {
            const int k = (int)(end - j);
            const V t = v_where(v_first(k), WEIGHED(REST_OF), v_set(0));
            s += t;
            d = v_fma(t, v_loadt_or(x + j, k, top_) - top, d);
        }
        dot += v_sum(d);
        sum += v_sum(s);
    }
    if (p)
        *total = sum;
    return dot;
}

static double ce_shared_rows(const void *x_, const void *w, const void *p_, ce_row_t *rows,
                             ce_share_t *shares, int64_t count, int64_t columns)
{
    const T *x = x_, *p = p_;
    double losses = 0.0;
    for (int64_t i = 0; i < count; i++, x += columns, p += p ? columns : 0) {
        ce_share_t *share = shares + i;
        rows[i].top = rows[i].scale = 0.0;
        if (share->hit == 0 && share->spread == 0)
            continue;
        const T top = row_top(x, columns);
        const double sum = row_exps(x, NULL, columns, top, 0);
        double dot = 0.0;
        if (p || share->spread != 0)
            dot = row_shared(x, w, p, columns, top, share->hit, share->spread, &share->total);
        if (!p)
            dot += share->hit * ((double)x[rows[i].label] - (double)top);
        rows[i].top = (double)top;
        rows[i].scale = 1.0 / sum;
        losses += share->total * log(sum) - dot;
    }
    return losses;
}

/* dx = factor * (total * softmax(x) - t) */
static void ce_shared_grad_rows(const void *x_, const void *w_, const void *p_, void *dx_,
                                const ce_row_t *rows, const ce_share_t *shares, int64_t count,
                                int64_t columns, double factor)
{
    const T *x = x_, *w = w_, *p = p_;
    T *dx = dx_;
    for (int64_t i = 0; i < count; i++, x += columns, dx += columns, p += p ? columns : 0) {
        const ce_share_t *share = shares + i;
        if (share->hit == 0 && share->spread == 0) {
            memset(dx, 0, (size_t)columns * sizeof(T));
            continue;
        }
        const V top = v_set((T)rows[i].top);
        const V scale = v_set((T)(rows[i].scale * share->total * factor));
        const V hit = v_set((T)(share->hit * factor)), spread = v_set((T)(share->spread * factor));
#define DIFFERENCE(LOAD) v_exp_down(LOAD(x) - top) * scale - WEIGHED(LOAD)
        STORE_LOOP(dx, columns, 0, DIFFERENCE);
#undef DIFFERENCE
        if (!p)
            dx[rows[i].label] -= (T)(share->hit * factor);
    }
}
#undef WEIGHED
#undef SHARE_OF
