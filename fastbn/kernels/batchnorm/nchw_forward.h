/* NCHW, forward: a channel's values are planes, one in every sample.
 * Moments are in nchw_moments.h.
 *
 * A sweep does two things in turns, to two groups of neighbouring channels: it takes the sums of
 * the `coming` channels, from STREAMS samples at once, and writes what becomes of the channels
 * `now`, whose sums the sweep before took and which are still in cache. What is read and what is
 * written in a turn is about as much, so that memory is busy both ways, as in a copy. Either group
 * may be empty. With STREAM_LINES, and where both groups are alike, a turn is a line of each.
 */

/* ---- forward: y = act((x - centre) * a + b + residual) ---- */

/* What is applied to a channel, as numbers and as vectors of them. */
typedef struct {
    T c, a, b;
} numbers_t;

typedef struct {
    V c, a, b;
} line_t; /* a line in the sense of geometry */

INLINE numbers_t numbers_of(const affine_t *f)
{
    const numbers_t n = {number(f->centre), number(f->a), number(f->b)};
    return n;
}

INLINE line_t line_of(const numbers_t *n)
{
    const line_t line = {v_set(n->c), v_set(n->a), v_set(n->b)};
    return line;
}

/* y of one unit, or of `part` of its values. */
INLINE unit_t normal_unit(const io_t *x, const io_t *residual, const line_t *f, V slope, int part,
                          const int act, const int has_residual)
{
    unit_t y = u_load(x, part), r;
    if (has_residual)
        r = u_load(residual, part);
    EACH_PART(p)
        y.p[p] = normal(y.p[p], f->c, f->a, has_residual ? f->b + r.p[p] : f->b, slope, act);
    return y;
}

/* Normalise the planes of a strip with the lines f_, one for each channel. */
INLINE void normalise(const strip_t *s, const io_t *x, const io_t *residual, io_t *y,
                      const numbers_t *f_, V slope, const int stream, int prefetch, const int act,
                      const int has_residual)
{
    x += s->at;
    y += s->at;
    residual = has_residual ? residual + s->at : NULL;
    for (int64_t i = 0; i < s->rows; i++) {
        line_t f;
#define Y(j, f, part)                                                                              \
    normal_unit(x + (j), has_residual ? residual + (j) : NULL, f, slope, part, act, has_residual)
#define CHANNEL(k) f = line_of(&f_[k])
#define PUT(j, part, stream)                                                                       \
    do {                                                                                           \
        if ((stream) && prefetch) {                                                                \
            PREFETCH_NEAR(x + (j) + AHEAD);                                                        \
            if (has_residual)                                                                      \
                PREFETCH_NEAR(residual + (j) + AHEAD);                                             \
        }                                                                                          \
        put(y + (j), pack(Y(j, &f, part)), part, stream);                                          \
    } while (0)
#define MIX(j, k, ours, stream)                                                                    \
    do {                                                                                           \
        const line_t g = line_of(&f_[(k) + 1]);                                                    \
        const unit_t own = Y(j, &f, 0), next = Y(j, &g, 0);                                        \
        put(y + (j), pack(u_where_first(ours, own, next)), 0, stream);                             \
    } while (0)
        EACH_UNIT(s, y, stream, CHANNEL, PUT, MIX);
#undef Y
#undef CHANNEL
#undef PUT
#undef MIX
        x += s->stride;
        y += s->stride;
        residual = has_residual ? residual + s->stride : NULL;
    }
}

static NOINLINE void write_normal(const strip_t *s, const io_t *x, const io_t *residual, io_t *y,
                                  const numbers_t *f, const act_t *act, int stream, int prefetch)
{
    const V slope = set_of(act->slope);
#define CALL(A, R)                                                                                 \
    if (stream)                                                                                    \
        normalise(s, x, residual, y, f, slope, 1, prefetch, A, R);                                 \
    else                                                                                           \
        normalise(s, x, residual, y, f, slope, 0, 0, A, R)
    DISPATCH(CALL)
#undef CALL
}

/* ---- both groups at once (STREAM_LINES): line by line, memory is read and written ---- */

/* Moments of n values of `rows` planes at `next`, and y of those in the same places at x. */
INLINE void sweep_lines(const io_t *next, T shift, sums_t *m, const io_t *x, const io_t *residual,
                        io_t *y, int64_t far, int64_t n, const line_t *f, V slope, const int rows,
                        const int act, const int has_residual)
{
    const V c = v_set(shift);
    sums_t s = *m;
#define TAKE(k, row, j, part, begins)                                                              \
    do {                                                                                           \
        const int64_t i = (row) * far + (j);                                                       \
        add_unit(next + i, c, 0, part, &s.a[k], &s.b[k]);                                          \
        put(y + i,                                                                                 \
            pack(normal_unit(x + i, has_residual ? residual + i : NULL, f, slope, part, act,       \
                             has_residual)),                                                       \
            part, 1);                                                                              \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *m = s;
}

/* The same of one row of two groups, whose moments are the i-th of the sums. */
INLINE void sweep_row(const strip_t *s, const io_t *next, const T *shift, sums_t *m, int64_t i,
                      const io_t *x, const io_t *residual, io_t *y, const numbers_t *f_, V slope,
                      const int act, const int has_residual)
{
    line_t f;
    V c, a, b;
#define Y(j, f, part)                                                                              \
    normal_unit(x + (j), has_residual ? residual + (j) : NULL, f, slope, part, act, has_residual)
#define CHANNEL(k)                                                                                 \
    do {                                                                                           \
        if ((k) > 0)                                                                               \
            m[(k) - 1].a[i] = a, m[(k) - 1].b[i] = b;                                              \
        a = m[k].a[i], b = m[k].b[i], c = v_set(shift[k]);                                         \
        f = line_of(&f_[k]);                                                                       \
    } while (0)
#define PUT(j, part, stream)                                                                       \
    do {                                                                                           \
        add_unit(next + (j), c, 0, part, &a, &b);                                                  \
        put(y + (j), pack(Y(j, &f, part)), part, stream);                                          \
    } while (0)
#define MIX(j, k, ours, stream)                                                                    \
    do {                                                                                           \
        const line_t g = line_of(&f_[(k) + 1]);                                                    \
        const unit_t own = Y(j, &f, 0), other = Y(j, &g, 0);                                       \
        add_unit(next + (j), c, 0, ours, &a, &b);                                                  \
        add_unit(next + (j), v_set(shift[(k) + 1]), ours, 0, &m[(k) + 1].a[i], &m[(k) + 1].b[i]);  \
        put(y + (j), pack(u_where_first(ours, own, other)), 0, stream);                            \
    } while (0)
    EACH_UNIT(s, y, 1, CHANNEL, PUT, MIX);
    m[s->channels - 1].a[i] = a, m[s->channels - 1].b[i] = b;
#undef Y
#undef CHANNEL
#undef PUT
#undef MIX
}

/* n values of `rows` rows (STREAMS, or 1), `r->stride` apart, of two groups of so many channels. */
static NOINLINE void sweep(const io_t *next, const T *shift, sums_t *m, const io_t *x,
                           const io_t *residual, io_t *y, const planes_t *r, int64_t channels,
                           int64_t n, int64_t rows, const numbers_t *f, const act_t *act)
{
    const V slope = set_of(act->slope);
    const line_t line = line_of(f);
    const strip_t row = {0, 1, r->stride, channels, n, 0, channels * n};
#define CALL(A, R)                                                                                 \
    if (channels == 1 && rows == 1)                                                                \
        sweep_lines(next, *shift, m, x, residual, y, 0, n, &line, slope, 1, A, R);                 \
    else if (channels == 1)                                                                        \
        sweep_lines(next, *shift, m, x, residual, y, r->stride, n, &line, slope, STREAMS, A, R);   \
    else                                                                                           \
        for (int64_t i = 0, at = 0; i < rows; i++, at += r->stride)                                \
        sweep_row(&row, next + at, shift, m, i, x + at, R ? residual + at : NULL, y + at, f,       \
                  slope, A, R)
    DISPATCH(CALL)
#undef CALL
}

static void nchw_forward(const tensors_t *t, const planes_t *r, int64_t first, int64_t now,
                         const affine_t *f_, int64_t coming, double *mean, double *m2,
                         const act_t *act, int prefetch, int stream)
{
    const int64_t length = r->length;
    const io_t *x = (const io_t *)t->x + first * length, *next = x + now * length;
    const io_t *residual = t->residual ? (const io_t *)t->residual + first * length : NULL;
    io_t *y = (io_t *)t->y + first * length;
    sums_t m[GROUP];
    numbers_t f[GROUP];
    T shift[GROUP];
    const block_t b = block_of(r);
    const int64_t turn = turn_of(r, stream, 4 * LINE, 16 * LINE);
    writer_t w = writer_of(r, now);
    double count = 0.0;
    for (int64_t k = 0; k < now; k++)
        f[k] = numbers_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++)
        mean[k] = m2[k] = 0.0;
    const int row = are_short(r);
    const int both = stream == STREAM_LINES && now == coming && !row && at_lines(y, r, now);
    if (both)
        w.left = 0; /* nothing is left to the writer */
    if (row)
        row_moments(next, length, coming, mean, m2);
#define WRITE(values)                                                                              \
    for (w.owed += (values); next_strip(&w);)                                                      \
    write_normal(&w.last, x, residual, y, f, act, stream, coming == 0)
    for (int64_t i0 = 0; i0 < r->planes && coming && !row; i0 += b.rows)
        for (int64_t j0 = 0; j0 < length; j0 += b.columns) {
            const int64_t rows = r->planes - i0 < b.rows ? r->planes - i0 : b.rows;
            const int64_t columns = length - j0 < b.columns ? length - j0 : b.columns;
            const planes_t block = {rows, columns, r->stride};
            const io_t *from = next + i0 * r->stride + j0;
            for (int64_t k = 0; k < coming; k++) {
                shift[k] = count > 0 ? (T)mean[k] : sample_mean(from + k * length, &block);
                clear(&m[k]);
            }
            for (int64_t i = 0, some; i < rows; i += some) {
                some = rows - i < STREAMS ? 1 : STREAMS;
                const int64_t at = (i0 + i) * r->stride + j0;
                if (both) {
                    sweep(next + at, shift, m, x + at, residual ? residual + at : NULL, y + at, r,
                          coming, columns, some, f, act);
                    continue;
                }
                for (int64_t j = at, n; j < at + columns; j += n) {
                    n = coming > 1 || at + columns - j < 2 * turn ? at + columns - j : turn;
                    take_moments(next + j, residual ? residual + now * length + j : NULL, r->stride,
                                 n, coming, shift, m, some, prefetch);
                    WRITE(coming * some * n);
                }
            }
            for (int64_t k = 0; k < coming; k++)
                merge_block(from + k * length, &block, &m[k], shift[k], count, &mean[k], &m2[k]);
            count += (double)(rows * columns);
        }
    WRITE(now * r->planes * length);
#undef WRITE
}
