/* Losses of pairs of numbers, a prediction x and a target t, and their gradients by x. Sums are of
 * type T inside a block and float64 beyond. */
#include "common/exp.h"
#include "common/loops.h"
#include "common/row_exps.h" /* SUM_BLOCK */

#define SQUARED_OF(x, t) (x - t) * (x - t)
#define ABSOLUTE_OF(x, t) v_abs(x - t)
#define HUBER_OF(x, t) huber(v_abs(x - t), delta)
#define LOGISTIC_OF(x, t) logistic(x, t)

/* d^2 / 2 up to delta, a line behind it; NaN stays NaN */
INLINE V huber(V size, V delta)
{
    const V inside = v_where(size > delta, delta, size);
    return inside * v_fma(v_set((T)-0.5), inside, size);
}

/* log(1 + exp(x)) - t x, in which nothing overflows, and nothing cancels where x is sure and right */
INLINE V logistic(V x, V t)
{
    const V size = v_abs(x);
    return v_fma(size, v_where(x < 0, t, v_set(1) - t), v_log1p(v_exp_down(-size)));
}

/* The same of one pair in float64. */
static double pair(double x, double t, int op, double delta)
{
    const double size = fabs(x - t), inside = size > delta ? delta : size;
    switch (op) {
    case LOSS_SQUARED: return size * size;
    case LOSS_ABSOLUTE: return size;
    case LOSS_HUBER: return inside * (size - 0.5 * inside);
    default: return fabs(x) * (x < 0 ? t : 1 - t) + log1p(exp(-fabs(x)));
    }
}

/* s += LOSS over a block */
#define SUM_LOOP(LOSS)                                                                             \
    do {                                                                                           \
        for (; j + W <= end; j += W)                                                               \
            s += LOSS(ALL_OF(x), ALL_OF(t));                                                       \
        if (j < end) {                                                                             \
            const int k = (int)(end - j);                                                          \
            s += v_where(v_first(k), LOSS(REST_OF(x), REST_OF(t)), v_set(0));                      \
        }                                                                                          \
    } while (0)

/* The sum over n pairs; of a block whose sum leaves what T holds exactly, in float64. */
static double pairs(const void *x_, const void *t_, int64_t n, int op, double delta_)
{
    const T *x = x_, *t = t_;
    const V delta = v_set((T)delta_);
    double sum = 0.0;
    for (int64_t first = 0; first < n; first += SUM_BLOCK) {
        const int64_t end = n - first < SUM_BLOCK ? n : first + SUM_BLOCK;
        V s = v_set(0);
        int64_t j = first;
        switch (op) {
        case LOSS_SQUARED: SUM_LOOP(SQUARED_OF); break;
        case LOSS_ABSOLUTE: SUM_LOOP(ABSOLUTE_OF); break;
        case LOSS_HUBER: SUM_LOOP(HUBER_OF); break;
        default: SUM_LOOP(LOGISTIC_OF); break;
        }
        double block = v_sum(s);
#if !defined(FASTBN_F64)
        if (!(block < 1e37 && block > 1e-30)) {
            block = 0.0;
            for (j = first; j < end; j++)
                block += pair((double)x[j], (double)t[j], op, delta_);
        }
#else
        (void)pair;
#endif
        sum += block;
    }
    return sum;
}

/* Both keep NaN. */
INLINE V sign(V d) { return v_where(d > 0, v_set(1), v_where(d < 0, v_set(-1), d)); }
INLINE V within(V d, V most) { return v_where(d > most, most, v_where(d < -most, -most, d)); }

/* dx = factor * derivative */
static void pairs_grad(const void *x_, const void *t_, void *dx_, int64_t n, int op, double delta_,
                       double factor_, int stream)
{
    const T *x = x_, *t = t_;
    T *dx = dx_;
    const V delta = v_set((T)delta_), factor = v_set((T)factor_);
    const V twice = v_set((T)(2.0 * factor_));
#define SQUARED_GRAD(LOAD) (LOAD(x) - LOAD(t)) * twice
#define ABSOLUTE_GRAD(LOAD) sign(LOAD(x) - LOAD(t)) * factor
#define HUBER_GRAD(LOAD) within(LOAD(x) - LOAD(t), delta) * factor
#define LOGISTIC_GRAD(LOAD) (v_sigmoid(LOAD(x)) - LOAD(t)) * factor
    switch (op) {
    case LOSS_SQUARED: STORE_LOOP(dx, n, stream, SQUARED_GRAD); break;
    case LOSS_ABSOLUTE: STORE_LOOP(dx, n, stream, ABSOLUTE_GRAD); break;
    case LOSS_HUBER: STORE_LOOP(dx, n, stream, HUBER_GRAD); break;
    default: STORE_LOOP(dx, n, stream, LOGISTIC_GRAD); break;
    }
}
