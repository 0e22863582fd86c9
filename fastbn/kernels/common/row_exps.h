/* Sums of exponentials over a row: what softmax and cross-entropy share. */
#ifndef FASTBN_ROW_EXPS_H
#define FASTBN_ROW_EXPS_H

#include "common/exp.h"
#include "common/loops.h"

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

#endif
