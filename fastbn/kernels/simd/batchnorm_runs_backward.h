/* Backward of batchnorm_runs.h: sums of d and d * (x - centre), then
 * dx = a * d + (x - centre) * k1 + k0. */

typedef struct {
    V c, a, b, k0, k1;
} terms_t;

INLINE terms_t terms_of(const affine_t *f)
{
    const terms_t t = {set_of(f->centre), set_of(f->a), set_of(f->b), set_of(f->k0),
                       set_of(f->k1)};
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

INLINE void gradient_sums(const tensors_t *t, int64_t at, int64_t far, int64_t n,
                          const terms_t *f_, V slope, sums_t *sums, const int act,
                          const int has_residual, const int rows)
{
    const io_t *x = (const io_t *)t->x + at, *dy = (const io_t *)t->dy + at;
    const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
    const terms_t f = *f_;
    sums_t s = *sums;
#define TAKE(k, row, j, part, ask) /* in the lanes beyond, dy and x - centre are 0 */         \
    do {                                                                                      \
        const int64_t i = (row) * far + (j);                                                  \
        unit_t xc = about(x + i, f.c, part);                                                  \
        if (ask) {                                                                            \
            PREFETCH(x + i + AHEAD);                                                          \
            PREFETCH(dy + i + AHEAD);                                                         \
            if (has_residual)                                                                 \
                PREFETCH(residual + i + AHEAD);                                               \
        }                                                                                     \
        if (part)                                                                             \
            xc = u_where_first(part, xc, u_set(0));                                           \
        const unit_t d = gradient_unit(xc, dy + i, has_residual ? residual + i : NULL, &f,    \
                                       slope, part, act, has_residual);                       \
        EACH_PART(p) {                                                                        \
            s.a[k] += d.p[p];                                                                 \
            s.b[k] = v_fma(d.p[p], xc.p[p], s.b[k]);                                          \
        }                                                                                     \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *sums = s;
}

/* Add n values of `rows` runs (STREAMS, or 1), `far` apart, to their sums. */
static NOINLINE void take_gradients(const tensors_t *t, int64_t at, int64_t far, int64_t n,
                                    const terms_t *f, const act_t *act, sums_t *sums, int64_t rows)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
#define CALL(A, R)                                                                            \
    if (rows == STREAMS)                                                                      \
        gradient_sums(t, at, far, n, f, slope, sums, A, R, STREAMS);                          \
    else                                                                                      \
        gradient_sums(t, at, 0, n, f, slope, sums, A, R, 1)
    DISPATCH(CALL)
#undef CALL
}

/* dx and dresidual of piece e, as far as they are not NULL. */
INLINE void gradients_of(const piece_t e, const tensors_t *t, int64_t at, const terms_t *f_,
                         int frozen, V slope, int stream, const int act, const int has_residual)
{
    at += e.at;
    const io_t *x = (const io_t *)t->x + at, *dy = (const io_t *)t->dy + at;
    const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
    io_t *dx = t->y ? (io_t *)t->y + at : NULL;
    io_t *dresidual = t->dresidual ? (io_t *)t->dresidual + at : NULL;
    const int stream_d = stream && ((uintptr_t)dresidual & (U * sizeof(io_t) - 1)) ==
                                       ((uintptr_t)dx & (U * sizeof(io_t) - 1));
    const terms_t f = f_[e.k];
    int64_t j = 0;
#define D(xc, f, part)                                                                        \
    gradient_unit(xc, dy + j, has_residual ? residual + j : NULL, f, slope, part, act,        \
                  has_residual)
#define PUT(part, stream, stream_d)                                                           \
    do {                                                                                      \
        const unit_t xc = about(x + j, f.c, part), d = D(xc, &f, part);                       \
        if (dresidual)                                                                        \
            put(dresidual + j, pack(d), part, stream_d);                                      \
        if (dx)                                                                               \
            put(dx + j, pack(dx_unit(xc, d, &f, frozen)), part, stream);                      \
    } while (0)
#define PUT_PARTS(end)                                                                        \
    for (; j < (end); j += U) {                                                               \
        const int part = part_of((end) - j);                                                  \
        PUT(part, 0, 0);                                                                      \
    }
    if (e.k == 0)
        PUT_PARTS(e.head);
    for (j = e.head; j + U <= e.end; j += U)
        PUT(0, stream, stream_d);
    if (!e.goes_on) {
        PUT_PARTS(e.n);
    } else if (j < e.n) {
        const terms_t g = f_[e.k + 1];
        const int ours = (int)(e.n - j);
        const unit_t xc = about(x + j, f.c, 0), xc1 = about(x + j, g.c, 0);
        const unit_t d = D(xc, &f, 0), d1 = D(xc1, &g, 0);
        if (dresidual)
            put(dresidual + j, pack(u_where_first(ours, d, d1)), 0, stream_d);
        if (dx)
            put(dx + j,
                pack(u_where_first(ours, dx_unit(xc, d, &f, frozen), dx_unit(xc1, d1, &g, frozen))),
                0, stream);
    }
#undef D
#undef PUT
#undef PUT_PARTS
}

/* The same for pieces until `owed` values are written, or all; returns how many are owed then. */
static NOINLINE int64_t write_gradients(writer_t *w, int64_t owed, const tensors_t *t, int64_t at,
                                        const terms_t *f, const act_t *act, int frozen, int stream)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
    while (owed > 0 && w->row < w->rows) {
        const piece_t e = next_piece(w, owed);
#define CALL(A, R) gradients_of(e, t, at, f, frozen, slope, stream, A, R)
        DISPATCH(CALL)
#undef CALL
        owed -= e.n;
    }
    return owed;
}

static void run_backward(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                         const affine_t *f_, int64_t coming, const affine_t *g_, double *sum_d,
                         double *sum_dx, const act_t *act, int frozen, int stream)
{
    const int64_t length = r->length, from = first * length, next = from + now * length;
    const io_t *to = (const io_t *)(t->y ? t->y : t->dresidual); /* what is aligned */
    const block_t b = block_of(r);
    const int64_t turn = turn_of(r, 2);
    sums_t s[GROUP];
    terms_t f[GROUP], g[GROUP];
    stream = stream && t->y;
    for (int64_t k = 0; k < now; k++)
        f[k] = terms_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++) {
        g[k] = terms_of(&g_[k]);
        sum_d[k] = sum_dx[k] = 0.0;
    }
    for (int64_t i0 = 0; i0 < r->runs; i0 += b.rows) {
        const int64_t rows = r->runs - i0 < b.rows ? r->runs - i0 : b.rows, row = i0 * r->stride;
        writer_t w = writer_of(to + from + row, r, now, rows);
        int64_t owed = 0;
#define WRITE(owed) write_gradients(&w, owed, t, from + row, f, act, frozen, stream)
        for (int64_t j0 = 0; j0 < length && coming; j0 += b.columns) {
            const int64_t columns = length - j0 < b.columns ? length - j0 : b.columns;
            for (int64_t k = 0; k < coming; k++)
                clear(&s[k]);
            for (int64_t i = 0, some; i < rows; i += some) {
                some = rows - i < STREAMS ? 1 : STREAMS;
                for (int64_t k = 0; k < coming; k++)
                    for (int64_t j = 0, n; j < columns; j += n) {
                        n = columns - j < 2 * turn ? columns - j : turn;
                        take_gradients(t, next + row + i * r->stride + k * length + j0 + j,
                                       r->stride, n, &g[k], act, &s[k], some);
                        owed = WRITE(owed + some * n);
                    }
            }
            for (int64_t k = 0; k < coming; k++) {
                sum_d[k] += v_sum(sum_a(&s[k]));
                sum_dx[k] += v_sum(sum_b(&s[k]));
            }
        }
        WRITE(INT64_MAX);
#undef WRITE
    }
}
