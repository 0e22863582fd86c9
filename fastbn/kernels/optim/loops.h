/* A step of an optimizer on a run of values: everything about a value is read and written once.
 *
 * Momenta of a value that gets no gradient fade through the subnormal numbers, which many
 * processors compute with a hundred times slower, and multiplication by 0.9 never gets them out:
 * they are set to zero there. It moves a value by less than lr * 1e-38 (float32).
 */
#include <float.h>

#if defined(FASTBN_F64)
#define SMALLEST_NORMAL DBL_MIN
#define EPSILON DBL_EPSILON
#else
#define SMALLEST_NORMAL FLT_MIN
#define EPSILON FLT_EPSILON
#endif

/* p, g and so on are addresses or, in the tail, their first k values. */
#define OPTIM_LOOP(BODY)                                                                           \
    int64_t j = 0;                                                                                 \
    for (; j + W <= n; j += W)                                                                     \
        BODY(v_loadt, v_storet);                                                                   \
    if (j < n) {                                                                                   \
        const int k = (int)(n - j);                                                                \
        BODY(LOAD_REST, STORE_REST);                                                               \
    }
#define LOAD_REST(p) v_loadt_part(p, k)
#define STORE_REST(p, v) v_storet_part(p, v, k)

INLINE void sgd_run(T *p, const T *g, T *b, int64_t n, V lr, V momentum, V decay,
                    const int has_momentum, const int has_decay, const int nesterov)
{
    const V tiny = v_set(SMALLEST_NORMAL);
#define BODY(LOAD, STORE)                                                                          \
    do {                                                                                           \
        const V value = LOAD(p + j);                                                               \
        V d = LOAD(g + j);                                                                         \
        if (has_decay)                                                                             \
            d = v_fma(decay, value, d);                                                            \
        if (has_momentum) {                                                                        \
            V moved = v_fma(momentum, LOAD(b + j), d);                                             \
            moved = v_flush(moved, tiny);                                                          \
            STORE(b + j, moved);                                                                   \
            d = nesterov ? v_fma(momentum, moved, d) : moved;                                      \
        }                                                                                          \
        STORE(p + j, v_fma(lr, d, value));                                                         \
    } while (0)
    OPTIM_LOOP(BODY)
#undef BODY
}

static void sgd(void *p, const void *g, void *momentum, int64_t n, const sgd_t *s)
{
    const V lr = v_set((T)-s->lr), mu = v_set((T)s->momentum), decay = v_set((T)s->decay);
    T *b = momentum;
#define RUN(M, N)                                                                                  \
    if (s->decay != 0)                                                                             \
        sgd_run(p, g, b, n, lr, mu, decay, M, 1, N);                                               \
    else                                                                                           \
        sgd_run(p, g, b, n, lr, mu, decay, M, 0, N)
    if (!b) {
        RUN(0, 0);
    } else if (s->nesterov) {
        RUN(1, 1);
    } else {
        RUN(1, 0);
    }
#undef RUN
}

INLINE void adam_run(T *p, const T *g, T *m, T *v, int64_t n, const adam_t *s, const int has_decay,
                     const int decoupled)
{
    /* sqrt(v) may be flushed where eps + sqrt(v) == eps: everywhere, unless eps is tiny, too. */
    const double unseen = s->eps * (EPSILON / 8);
    const V tiny_m = v_set(SMALLEST_NORMAL);
    const V tiny_v = v_set((T)fmin(SMALLEST_NORMAL, unseen * unseen));
    const V rest1 = v_set((T)(1.0 - s->beta1)), beta2 = v_set((T)s->beta2);
    const V rest2 = v_set((T)(1.0 - s->beta2)), correction = v_set((T)s->correction);
    const V step = v_set((T)-s->step), eps = v_set((T)s->eps), decay = v_set((T)s->decay);
    const V keep = v_set((T)s->keep);
#define BODY(LOAD, STORE)                                                                          \
    do {                                                                                           \
        V value = LOAD(p + j), d = LOAD(g + j), first = LOAD(m + j);                               \
        if (has_decay)                                                                             \
            d = v_fma(decay, value, d);                                                            \
        if (decoupled)                                                                             \
            value = value * keep;                                                                  \
        first = v_flush(v_fma(d - first, rest1, first), tiny_m);                                   \
        const V second = v_flush(v_fma(d * d, rest2, LOAD(v + j) * beta2), tiny_v);                \
        STORE(m + j, first);                                                                       \
        STORE(v + j, second);                                                                      \
        const V size = v_fma(v_sqrt(second), correction, eps);                                     \
        STORE(p + j, v_fma(step, first / size, value));                                            \
    } while (0)
    OPTIM_LOOP(BODY)
#undef BODY
}

static void adam(void *p, const void *g, void *m, void *v, int64_t n, const adam_t *s)
{
    if (s->keep != 1.0)
        adam_run(p, g, m, v, n, s, 0, 1);
    else if (s->decay != 0)
        adam_run(p, g, m, v, n, s, 1, 0);
    else
        adam_run(p, g, m, v, n, s, 0, 0);
}

#undef EPSILON
#undef LOAD_REST
#undef STORE_REST
