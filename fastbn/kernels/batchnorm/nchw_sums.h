/* NCHW, backward of nchw_moments.h: sums of d and of d * (x - centre). */

typedef struct {
    T c, a, b, k0, k1;
} gradient_numbers_t;

typedef struct {
    V c, a, b, k0, k1;
} terms_t;

INLINE gradient_numbers_t gradient_numbers_of(const affine_t *f)
{
    const gradient_numbers_t n = {number(f->centre), number(f->a), number(f->b), number(f->k0),
                                  number(f->k1)};
    return n;
}

INLINE terms_t terms_of(const gradient_numbers_t *n)
{
    const terms_t t = {v_set(n->c), v_set(n->a), v_set(n->b), v_set(n->k0), v_set(n->k1)};
    return t;
}

/* The gradient behind the activation, of one unit or `part` of it. */
INLINE unit_t gradient_unit(unit_t xc, const io_t *dy, const io_t *residual, const terms_t *f,
                            V slope, int part, const int act, const int has_residual)
{
    unit_t d = u_load(dy, part), r;
    if (has_residual)
        r = u_load(residual, part);
    EACH_PART(p)
        d.p[p] = gradient(xc.p[p], d.p[p], f->a, has_residual ? f->b + r.p[p] : f->b, slope, act);
    return d;
}

/* Add a unit at `at`, but for what belongs to other planes (see EACH_OF_GROUP), to two sums; in
 * those lanes d and x - centre are 0. */
INLINE void add_gradient_unit(const tensors_t *t, int64_t at, int head, int part, const terms_t *f,
                              V slope, V *a, V *b, const int act, const int has_residual)
{
    const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
    unit_t xc = about((const io_t *)t->x + at, f->c, part);
    if (part)
        xc = u_where_first(part, xc, u_set(0));
    unit_t d =
        gradient_unit(xc, (const io_t *)t->dy + at, residual, f, slope, part, act, has_residual);
    if (head) {
        xc = u_where_first(head, u_set(0), xc);
        d = u_where_first(head, u_set(0), d);
    }
    EACH_PART(p) {
        *a += d.p[p];
        *b = v_fma(d.p[p], xc.p[p], *b);
    }
}

INLINE void gradient_sums(const tensors_t *t, int64_t at, int64_t far, int64_t n,
                          const gradient_numbers_t *f_, V slope, sums_t *sums, const int act,
                          const int has_residual, const int rows, const int prefetch)
{
    const terms_t f = terms_of(f_);
    sums_t s = *sums;
#define TAKE(k, row, j, part, begins)                                                              \
    do {                                                                                           \
        const int64_t i = at + (row) * far + (j);                                                  \
        if (prefetch && (begins)) {                                                                \
            PREFETCH_NEAR((const io_t *)t->x + i + AHEAD);                                         \
            PREFETCH_NEAR((const io_t *)t->dy + i + AHEAD);                                        \
            if (has_residual)                                                                      \
                PREFETCH_NEAR((const io_t *)t->residual + i + AHEAD);                              \
        }                                                                                          \
        add_gradient_unit(t, i, 0, part, &f, slope, &s.a[k], &s.b[k], act, has_residual);          \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *sums = s;
}

INLINE void group_gradient_sums(const tensors_t *t, int64_t at, int64_t far, int64_t length,
                                int64_t channels, const gradient_numbers_t *f_, V slope,
                                sums_t *sums, const int act, const int has_residual, const int rows,
                                const int prefetch)
{
    for (int64_t k = 0; k < channels; k++) {
        const terms_t f = terms_of(&f_[k]);
        sums_t s = sums[k];
#define TAKE(row, j, head, part)                                                                   \
    do {                                                                                           \
        const int64_t i = at + (row) * far + (j);                                                  \
        if (prefetch) {                                                                            \
            PREFETCH_NEAR((const io_t *)t->x + i + AHEAD);                                         \
            PREFETCH_NEAR((const io_t *)t->dy + i + AHEAD);                                        \
            if (has_residual)                                                                      \
                PREFETCH_NEAR((const io_t *)t->residual + i + AHEAD);                              \
        }                                                                                          \
        add_gradient_unit(t, i, head, part, &f, slope, &s.a[row], &s.b[row], act, has_residual);   \
    } while (0)
        EACH_OF_GROUP(k, length, rows, TAKE);
#undef TAKE
        sums[k] = s;
    }
}

/* Add n values of every channel of a group, in `rows` rows (STREAMS, or 1), `far` apart, to their
 * sums. With `prefetch`, what comes next is prefetched. */
static NOINLINE void take_gradients(const tensors_t *t, int64_t at, int64_t far, int64_t n,
                                    int64_t channels, const gradient_numbers_t *f, const act_t *act,
                                    sums_t *sums, int64_t rows, int prefetch)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
#define SOME(A, R, ROWS, FETCH)                                                                    \
    if (channels == 1)                                                                             \
        gradient_sums(t, at, far, n, f, slope, sums, A, R, ROWS, FETCH);                           \
    else                                                                                           \
        group_gradient_sums(t, at, far, n, channels, f, slope, sums, A, R, ROWS, FETCH)
#define CALL(A, R)                                                                                 \
    if (rows != STREAMS) {                                                                         \
        SOME(A, R, 1, 0);                                                                          \
    } else if (prefetch) {                                                                         \
        SOME(A, R, STREAMS, 1);                                                                    \
    } else {                                                                                       \
        SOME(A, R, STREAMS, 0);                                                                    \
    }
    DISPATCH(CALL)
#undef CALL
#undef SOME
}

/* The sums of neighbouring channels of a single sample: of one short plane each. */
INLINE void row_gradient_sums(const tensors_t *t, int64_t at, int64_t length, int64_t channels,
                              const gradient_numbers_t *f_, V slope, double *sum_d, double *sum_dx,
                              const int act, const int has_residual)
{
    for (int64_t k = 0; k < channels; k++, at += length) {
        const terms_t f = terms_of(&f_[k]);
        sums_t s;
        clear(&s);
#define TAKE(j, head, i)                                                                           \
    add_gradient_unit(t, at + (j), head, 0, &f, slope, &s.a[i], &s.b[i], act, has_residual)
        EACH_OF_PLANE(length, TAKE);
#undef TAKE
        sum_d[k] = v_sum(sum_a(&s));
        sum_dx[k] = v_sum(sum_b(&s));
    }
}

static NOINLINE void take_row_gradients(const tensors_t *t, int64_t at, int64_t length,
                                        int64_t channels, const gradient_numbers_t *f,
                                        const act_t *act, double *sum_d, double *sum_dx)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
#define CALL(A, R) row_gradient_sums(t, at, length, channels, f, slope, sum_d, sum_dx, A, R)
    DISPATCH(CALL)
#undef CALL
}
