/* NCHW, backward of nchw_forward.h: once the sums of nchw_sums.h are known,
 * dx = a * d + (x - centre) * k1 + k0. */

INLINE unit_t dx_unit(unit_t xc, unit_t d, const terms_t *f, int frozen)
{
    EACH_PART(p)
        d.p[p] = input_gradient(xc.p[p], d.p[p], f->a, f->k0, f->k1, frozen);
    return d;
}

/* Is dx wanted, and dresidual if there is a residual, with the statistics of the batch? */
INLINE int is_plain(const tensors_t *t, int frozen)
{
    return t->dx && !t->dresidual == !t->residual && !frozen;
}

/* dx and dresidual of a strip, as far as they are not NULL, with `plain` as above. */
INLINE void gradients_of(const strip_t *s, const tensors_t *t, int64_t at,
                         const gradient_numbers_t *f_, int frozen, V slope, int stream,
                         const int act, const int has_residual, const int plain)
{
    const int has_dx = plain || t->dx, has_d = plain ? has_residual : t->dresidual != NULL;
    const int is_frozen = !plain && frozen;
    at += s->at;
    for (int64_t i = 0; i < s->rows; i++) {
        const io_t *x = (const io_t *)t->x + at, *dy = (const io_t *)t->dy + at;
        const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
        io_t *dx = has_dx ? (io_t *)t->dx + at : NULL;
        io_t *dresidual = has_d ? (io_t *)t->dresidual + at : NULL;
        const int stream_d = stream && ((uintptr_t)dresidual & (U * sizeof(io_t) - 1)) ==
                                           ((uintptr_t)dx & (U * sizeof(io_t) - 1));
        terms_t f;
#define CHANNEL(k) f = terms_of(&f_[k])
#define D(xc, j, f, part)                                                                          \
    gradient_unit(xc, dy + (j), has_residual ? residual + (j) : NULL, f, slope, part, act,         \
                  has_residual)
#define PUT(j, part, stream)                                                                       \
    do {                                                                                           \
        const unit_t xc = about(x + (j), f.c, part), d = D(xc, j, &f, part);                       \
        if (has_d)                                                                                 \
            put(dresidual + (j), pack(d), part, (stream) && stream_d);                             \
        if (has_dx)                                                                                \
            put(dx + (j), pack(dx_unit(xc, d, &f, is_frozen)), part, stream);                      \
    } while (0)
#define MIX(j, k, ours, stream)                                                                    \
    do {                                                                                           \
        const terms_t g = terms_of(&f_[(k) + 1]);                                                  \
        const unit_t xc = about(x + (j), f.c, 0), xc1 = about(x + (j), g.c, 0);                    \
        const unit_t d = D(xc, j, &f, 0), d1 = D(xc1, j, &g, 0);                                   \
        if (has_d)                                                                                 \
            put(dresidual + (j), pack(u_where_first(ours, d, d1)), 0, (stream) && stream_d);       \
        if (has_dx)                                                                                \
            put(dx + (j),                                                                          \
                pack(u_where_first(ours, dx_unit(xc, d, &f, is_frozen),                            \
                                   dx_unit(xc1, d1, &g, is_frozen))),                              \
                0, stream);                                                                        \
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
#define CALL(A, R)                                                                                 \
    if (plain && stream)                                                                           \
        gradients_of(s, t, at, f, 0, slope, 1, A, R, 1);                                           \
    else if (plain)                                                                                \
        gradients_of(s, t, at, f, 0, slope, 0, A, R, 1);                                           \
    else                                                                                           \
        gradients_of(s, t, at, f, frozen, slope, stream, A, R, 0)
    DISPATCH(CALL)
#undef CALL
}

/* Both at once, with STREAM_LINES: sums of n values of `rows` planes at `next`, and
 * the gradients of those in the same places at `at`. */
INLINE void sweep_gradient_lines(const tensors_t *t, int64_t next, const gradient_numbers_t *g_,
                                 sums_t *sums, int64_t at, const gradient_numbers_t *f_,
                                 int64_t far, int64_t n, V slope, const int rows, const int act,
                                 const int has_residual)
{
    const terms_t f = terms_of(f_), g = terms_of(g_);
    sums_t s = *sums;
#define TAKE(k, row, j, part, begins)                                                              \
    do {                                                                                           \
        const int64_t i = (row) * far + (j), to = at + i;                                          \
        const io_t *residual = has_residual ? (const io_t *)t->residual + to : NULL;               \
        add_gradient_unit(t, next + i, 0, part, &g, slope, &s.a[k], &s.b[k], act, has_residual);   \
        const unit_t xc = about((const io_t *)t->x + to, f.c, part);                               \
        const unit_t d = gradient_unit(xc, (const io_t *)t->dy + to, residual, &f, slope, part,    \
                                       act, has_residual);                                         \
        if (has_residual)                                                                          \
            put((io_t *)t->dresidual + to, pack(d), part, 1);                                      \
        put((io_t *)t->dx + to, pack(dx_unit(xc, d, &f, 0)), part, 1);                             \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *sums = s;
}

/* The same of one row of two groups, whose sums are the i-th. */
INLINE void sweep_gradient_row(const strip_t *row, const tensors_t *t, int64_t next,
                               const gradient_numbers_t *g_, sums_t *s, int64_t i, int64_t at,
                               const gradient_numbers_t *f_, V slope, const int act,
                               const int has_residual)
{
    const io_t *x = (const io_t *)t->x + at, *dy = (const io_t *)t->dy + at;
    const io_t *residual = has_residual ? (const io_t *)t->residual + at : NULL;
    io_t *dx = (io_t *)t->dx + at, *dresidual = has_residual ? (io_t *)t->dresidual + at : NULL;
    terms_t f, g;
    V a, b;
#define ADD(j, head, part, g, a, b)                                                                \
    add_gradient_unit(t, next + (j), head, part, g, slope, a, b, act, has_residual)
#define D(xc, j, f, part)                                                                          \
    gradient_unit(xc, dy + (j), has_residual ? residual + (j) : NULL, f, slope, part, act,         \
                  has_residual)
#define CHANNEL(k)                                                                                 \
    do {                                                                                           \
        if ((k) > 0)                                                                               \
            s[(k) - 1].a[i] = a, s[(k) - 1].b[i] = b;                                              \
        a = s[k].a[i], b = s[k].b[i];                                                              \
        f = terms_of(&f_[k]), g = terms_of(&g_[k]);                                                \
    } while (0)
#define PUT(j, part, stream)                                                                       \
    do {                                                                                           \
        const unit_t xc = about(x + (j), f.c, part), d = D(xc, j, &f, part);                       \
        ADD(j, 0, part, &g, &a, &b);                                                               \
        if (has_residual)                                                                          \
            put(dresidual + (j), pack(d), part, stream);                                           \
        put(dx + (j), pack(dx_unit(xc, d, &f, 0)), part, stream);                                  \
    } while (0)
#define MIX(j, k, ours, stream)                                                                    \
    do {                                                                                           \
        const terms_t f1 = terms_of(&f_[(k) + 1]), g1 = terms_of(&g_[(k) + 1]);                    \
        const unit_t xc = about(x + (j), f.c, 0), xc1 = about(x + (j), f1.c, 0);                   \
        const unit_t d = D(xc, j, &f, 0), d1 = D(xc1, j, &f1, 0);                                  \
        ADD(j, 0, ours, &g, &a, &b);                                                               \
        ADD(j, ours, 0, &g1, &s[(k) + 1].a[i], &s[(k) + 1].b[i]);                                  \
        if (has_residual)                                                                          \
            put(dresidual + (j), pack(u_where_first(ours, d, d1)), 0, stream);                     \
        put(dx + (j), pack(u_where_first(ours, dx_unit(xc, d, &f, 0), dx_unit(xc1, d1, &f1, 0))),  \
            0, stream);                                                                            \
    } while (0)
    EACH_UNIT(row, dx, 1, CHANNEL, PUT, MIX);
    s[row->channels - 1].a[i] = a, s[row->channels - 1].b[i] = b;
#undef ADD
#undef D
#undef CHANNEL
#undef PUT
#undef MIX
}

/* n values of `rows` rows (STREAMS, or 1), `r->stride` apart, of two groups of so many channels. */
static NOINLINE void sweep_gradients(const tensors_t *t, const planes_t *r, int64_t channels,
                                     int64_t next, const gradient_numbers_t *g, sums_t *sums,
                                     int64_t at, const gradient_numbers_t *f, int64_t n,
                                     const act_t *act, int64_t rows)
{
    const void *residual = t->residual;
    const V slope = set_of(act->slope);
    const strip_t row = {0, 1, r->stride, channels, n, 0, channels * n};
#define CALL(A, R)                                                                                 \
    if (channels == 1 && rows == 1)                                                                \
        sweep_gradient_lines(t, next, g, sums, at, f, 0, n, slope, 1, A, R);                       \
    else if (channels == 1)                                                                        \
        sweep_gradient_lines(t, next, g, sums, at, f, r->stride, n, slope, STREAMS, A, R);         \
    else                                                                                           \
        for (int64_t i = 0, far = 0; i < rows; i++, far += r->stride)                              \
        sweep_gradient_row(&row, t, next + far, g, sums, i, at + far, f, slope, A, R)
    DISPATCH(CALL)
#undef CALL
}

static void nchw_backward(const tensors_t *t, const planes_t *r, int64_t first, int64_t now,
                          const affine_t *f_, int64_t coming, const affine_t *g_, double *sum_d,
                          double *sum_dx, const act_t *act, int frozen, int prefetch, int stream)
{
    const int64_t length = r->length;
    const block_t b = block_of(r);
    const int64_t turn = turn_of(r, stream, 2 * LINE, 64 * LINE);
    writer_t w = writer_of(r, now);
    sums_t s[GROUP];
    gradient_numbers_t f[GROUP], g[GROUP];
    stream = t->dx ? stream : 0;
    for (int64_t k = 0; k < now; k++)
        f[k] = gradient_numbers_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++) {
        g[k] = gradient_numbers_of(&g_[k]);
        sum_d[k] = sum_dx[k] = 0.0;
    }
    const int row = are_short(r);
    const int both = stream == STREAM_LINES && now == coming && !row && is_plain(t, frozen) &&
                     at_lines((io_t *)t->dx + first * length, r, now) &&
                     (!t->residual || at_lines((io_t *)t->dresidual + first * length, r, now));
    if (both)
        w.left = 0; /* nothing is left to the writer */
    if (row)
        take_row_gradients(t, (first + now) * length, length, coming, g, act, sum_d, sum_dx);
#define WRITE(values)                                                                              \
    for (w.owed += (values); next_strip(&w);)                                                      \
    write_gradients(&w.last, t, (first * length), f, act, frozen, stream)
    for (int64_t i0 = 0; i0 < r->planes && coming && !row; i0 += b.rows)
        for (int64_t j0 = 0; j0 < length; j0 += b.columns) {
            const int64_t rows = r->planes - i0 < b.rows ? r->planes - i0 : b.rows;
            const int64_t columns = length - j0 < b.columns ? length - j0 : b.columns;
            for (int64_t k = 0; k < coming; k++)
                clear(&s[k]);
            for (int64_t i = i0, some; i < i0 + rows; i += some) {
                some = i0 + rows - i < STREAMS ? 1 : STREAMS;
                if (both) {
                    const int64_t at = i * r->stride + first * length + j0;
                    sweep_gradients(t, r, now, at + now * length, g, s, at, f, columns, act, some);
                    continue;
                }
                const int64_t most = some == 1 ? 2 * turn : turn; /* STREAMS lines of a row */
                for (int64_t j = j0, n; j < j0 + columns; j += n) {
                    const int64_t at = i * r->stride + (first + now) * length + j;
                    n = coming > 1 || j0 + columns - j < 2 * most ? j0 + columns - j : most;
                    take_gradients(t, at, r->stride, n, coming, g, act, s, some, prefetch);
                    WRITE(coming * some * n);
                }
            }
            for (int64_t k = 0; k < coming; k++) {
                sum_d[k] += v_sum(sum_a(&s[k]));
                sum_dx[k] += v_sum(sum_b(&s[k]));
            }
        }
    WRITE(now * r->planes * length);
#undef WRITE
}
