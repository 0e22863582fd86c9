/* Backward of batchnorm_runs.h: sums of d and d * (x - centre), then
 * dx = a * d + (x - centre) * k1 + k0. */

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
    EACH_PART(p) d.p[p] = gradient(xc.p[p], d.p[p], f->a, has_residual ? f->b + r.p[p] : f->b,
                                   slope, act);
    return d;
}

INLINE unit_t dx_unit(unit_t xc, unit_t d, const terms_t *f, int frozen)
{
    EACH_PART(p) d.p[p] = input_gradient(xc.p[p], d.p[p], f->a, f->k0, f->k1, frozen);
    return d;
}

/* Add a unit at `at`, or `part` of it, to two sums; in the lanes beyond, dy and x - centre are 0. */
INLINE void add_gradient_unit(const tensors_t *t, int64_t at, int part, const terms_t *f, V slope,
                              V *a, V *b, const int act, const int has_residual)
{
    const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
    unit_t xc = about((const io_t *)t->x + at, f->c, part);
    if (part)
        xc = u_where_first(part, xc, u_set(0));
    const unit_t d = gradient_unit(xc, (const io_t *)t->dy + at, residual, f, slope, part, act,
                                   has_residual);
    EACH_PART(p) {
        *a += d.p[p];
        *b = v_fma(d.p[p], xc.p[p], *b);
    }
}

INLINE void gradient_sums(const tensors_t *t, int64_t at, int64_t far, int64_t n,
                          const gradient_numbers_t *f_, V slope, sums_t *sums, const int act,
                          const int has_residual, const int rows, const int ask)
{
    const terms_t f = terms_of(f_);
    sums_t s = *sums;
#define TAKE(k, row, j, part, begins)                                                         \
    do {                                                                                      \
        const int64_t i = at + (row) * far + (j);                                             \
        if (ask && (begins)) {                                                                \
            PREFETCH((const io_t *)t->x + i + AHEAD);                                         \
            PREFETCH((const io_t *)t->dy + i + AHEAD);                                        \
            if (has_residual)                                                                 \
                PREFETCH((const io_t *)t->residual + i + AHEAD);                              \
        }                                                                                     \
        add_gradient_unit(t, i, part, &f, slope, &s.a[k], &s.b[k], act, has_residual);        \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *sums = s;
}

/* Add n values of `rows` runs (STREAMS, or 1), `far` apart, to their sums. With `ask`,
 * memory is asked for what comes next. */
static NOINLINE void take_gradients(const tensors_t *t, int64_t at, int64_t far, int64_t n,
                                    const gradient_numbers_t *f, const act_t *act, sums_t *sums,
                                    int64_t rows, int ask)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
#define CALL(A, R)                                                                            \
    if (rows != STREAMS)                                                                      \
        gradient_sums(t, at, 0, n, f, slope, sums, A, R, 1, 0);                               \
    else if (ask)                                                                             \
        gradient_sums(t, at, far, n, f, slope, sums, A, R, STREAMS, 1);                       \
    else                                                                                      \
        gradient_sums(t, at, far, n, f, slope, sums, A, R, STREAMS, 0)
    DISPATCH(CALL)
#undef CALL
}

/* Is dx wanted, and dresidual if there is a residual, with the statistics of the batch? */
INLINE int is_plain(const tensors_t *t, int frozen)
{
    return t->y && !t->dresidual == !t->residual && !frozen;
}

/* dx and dresidual of a strip, as far as they are not NULL, with `plain` as above. */
INLINE void gradients_of(const strip_t *s, const tensors_t *t, int64_t at,
                         const gradient_numbers_t *f_, int frozen, V slope, int stream,
                         const int act, const int has_residual, const int plain)
{
    const int has_dx = plain || t->y, has_d = plain ? has_residual : t->dresidual != NULL;
    const int is_frozen = !plain && frozen;
    at += s->at;
    for (int64_t i = 0; i < s->rows; i++) {
        const io_t *x = (const io_t *)t->x + at, *dy = (const io_t *)t->dy + at;
        const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
        io_t *dx = has_dx ? (io_t *)t->y + at : NULL;
        io_t *dresidual = has_d ? (io_t *)t->dresidual + at : NULL;
        const int stream_d = stream && ((uintptr_t)dresidual & (U * sizeof(io_t) - 1)) ==
                                       ((uintptr_t)dx & (U * sizeof(io_t) - 1));
        terms_t f;
#define CHANNEL(k) f = terms_of(&f_[k])
#define D(xc, j, f, part)                                                                     \
    gradient_unit(xc, dy + (j), has_residual ? residual + (j) : NULL, f, slope, part, act,    \
                  has_residual)
#define PUT(j, part, stream)                                                                  \
    do {                                                                                      \
        const unit_t xc = about(x + (j), f.c, part), d = D(xc, j, &f, part);                  \
        if (has_d)                                                                            \
            put(dresidual + (j), pack(d), part, (stream) && stream_d);                        \
        if (has_dx)                                                                           \
            put(dx + (j), pack(dx_unit(xc, d, &f, is_frozen)), part, stream);                 \
    } while (0)
#define MIX(j, k, ours, stream)                                                               \
    do {                                                                                      \
        const terms_t g = terms_of(&f_[(k) + 1]);                                             \
        const unit_t xc = about(x + (j), f.c, 0), xc1 = about(x + (j), g.c, 0);               \
        const unit_t d = D(xc, j, &f, 0), d1 = D(xc1, j, &g, 0);                              \
        if (has_d)                                                                            \
            put(dresidual + (j), pack(u_where_first(ours, d, d1)), 0, (stream) && stream_d);  \
        if (has_dx)                                                                           \
            put(dx + (j),                                                                     \
                pack(u_where_first(ours, dx_unit(xc, d, &f, is_frozen),                       \
                                   dx_unit(xc1, d1, &g, is_frozen))),                         \
                0, stream);                                                                   \
    } while (0)
        EACH_UNIT(s, has_dx ? dx : dresidual, stream, CHANNEL, PUT, MIX);
#undef CHANNEL
#undef D
#undef PUT
#undef MIX
        at += s->stride;
    }
}

static NOINLINE void write_gradients(const strip_t *s, const tensors_t *t, int64_t at,
                                     const gradient_numbers_t *f, const act_t *act, int frozen,
                                     int stream)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
    const int plain = is_plain(t, frozen);
#define CALL(A, R)                                                                            \
    if (plain && stream)                                                                      \
        gradients_of(s, t, at, f, 0, slope, 1, A, R, 1);                                      \
    else if (plain)                                                                           \
        gradients_of(s, t, at, f, 0, slope, 0, A, R, 1);                                      \
    else                                                                                      \
        gradients_of(s, t, at, f, frozen, slope, stream, A, R, 0)
    DISPATCH(CALL)
#undef CALL
}

/* Both at once, where dx (and dresidual) are streamed: sums of n values of `rows` runs at `next`, and
 * the gradients of those in the same places at `at`. */
INLINE void sweep_gradient_lines(const tensors_t *t, int64_t next, const gradient_numbers_t *g_,
                                 sums_t *sums, int64_t at, const gradient_numbers_t *f_,
                                 int64_t far, int64_t n, V slope, const int rows, const int act,
                                 const int has_residual)
{
    const terms_t f = terms_of(f_), g = terms_of(g_);
    sums_t s = *sums;
#define TAKE(k, row, j, part, begins)                                                         \
    do {                                                                                      \
        const int64_t i = (row) * far + (j), to = at + i;                                     \
        const io_t *residual = has_residual ? (const io_t *)t->residual + to : NULL;          \
        add_gradient_unit(t, next + i, part, &g, slope, &s.a[k], &s.b[k], act, has_residual); \
        const unit_t xc = about((const io_t *)t->x + to, f.c, part);                          \
        const unit_t d = gradient_unit(xc, (const io_t *)t->dy + to, residual, &f, slope,     \
                                       part, act, has_residual);                              \
        if (has_residual)                                                                     \
            put((io_t *)t->dresidual + to, pack(d), part, 1);                                 \
        put((io_t *)t->y + to, pack(dx_unit(xc, d, &f, 0)), part, 1);                         \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *sums = s;
}

static NOINLINE void sweep_gradients(const tensors_t *t, int64_t next, const gradient_numbers_t *g,
                                     sums_t *sums, int64_t at, const gradient_numbers_t *f,
                                     int64_t far, int64_t n, const act_t *act, int64_t rows)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
#define CALL(A, R)                                                                            \
    if (rows == 1)                                                                            \
        sweep_gradient_lines(t, next, g, sums, at, f, 0, n, slope, 1, A, R);                  \
    else                                                                                      \
        sweep_gradient_lines(t, next, g, sums, at, f, far, n, slope, STREAMS, A, R)
    DISPATCH(CALL)
#undef CALL
}

static void run_backward(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                         const affine_t *f_, int64_t coming, const affine_t *g_, double *sum_d,
                         double *sum_dx, const act_t *act, int frozen, int ask, int stream)
{
    const int64_t length = r->length;
    const block_t b = block_of(r);
    const int64_t turn = turn_of(r, stream, 2 * LINE, 64 * LINE);
    writer_t w = writer_of(r, now);
    sums_t s[GROUP];
    gradient_numbers_t f[GROUP], g[GROUP];
    stream = stream && t->y;
    for (int64_t k = 0; k < now; k++)
        f[k] = gradient_numbers_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++) {
        g[k] = gradient_numbers_of(&g_[k]);
        sum_d[k] = sum_dx[k] = 0.0;
    }
    const int both = stream && now == 1 && coming == 1 && is_plain(t, frozen) &&
                     at_lines((io_t *)t->y + first * length, r, 1) &&
                     (!t->residual || at_lines((io_t *)t->dresidual + first * length, r, 1));
    if (both)
        w.left = 0; /* nothing is left to the writer */
#define WRITE(values)                                                                         \
    for (w.owed += (values); next_strip(&w);)                                                 \
    write_gradients(&w.last, t, first * length, f, act, frozen, stream)
    for (int64_t i0 = 0; i0 < r->runs && coming; i0 += b.rows)
        for (int64_t j0 = 0; j0 < length; j0 += b.columns) {
            const int64_t rows = r->runs - i0 < b.rows ? r->runs - i0 : b.rows;
            const int64_t columns = length - j0 < b.columns ? length - j0 : b.columns;
            for (int64_t k = 0; k < coming; k++)
                clear(&s[k]);
            for (int64_t i = i0, some; i < i0 + rows; i += some) {
                some = i0 + rows - i < STREAMS ? 1 : STREAMS;
                if (both) {
                    const int64_t at = i * r->stride + first * length + j0;
                    sweep_gradients(t, at + length, g, s, at, f, r->stride, columns, act, some);
                    continue;
                }
                const int64_t most = some == 1 ? 2 * turn : turn; /* STREAMS lines of a row */
                for (int64_t j = j0, n; j < j0 + columns; j += n) {
                    const int64_t at = i * r->stride + (first + now) * length + j;
                    n = j0 + columns - j < 2 * most ? j0 + columns - j : most;
                    for (int64_t k = 0; k < coming; k++)
                        take_gradients(t, at + k * length, r->stride, n, &g[k], act, &s[k], some,
                                       ask);
                    WRITE(coming * some * n);
                }
            }
            for (int64_t k = 0; k < coming; k++) {
                sum_d[k] += v_sum(sum_a(&s[k]));
                sum_dx[k] += v_sum(sum_b(&s[k]));
            }
        }
    WRITE(now * r->runs * length);
#undef WRITE
}
