/* Batch normalisation where a channel's values lie in runs (NCHW): one run in every sample.
 *
 * A sweep does two things in turns, to two groups of neighbouring channels: it takes the sums of
 * the `coming` channels, from STREAMS samples at once, and writes what becomes of the channels
 * `now`, whose sums the sweep before took and which are still in cache. What is read and what is
 * written in a turn is about as much, so that memory is busy both ways, as in a copy. Either group
 * may be empty.
 */

enum { GROUP = 32 };                      /* channels of a group, at most */
enum { AHEAD = 1024 / sizeof(io_t) };     /* how far ahead is asked for what no cache holds */

/* Two partial sums for each of STREAMS lines: of values and of products. */
typedef struct {
    V a[STREAMS], b[STREAMS];
} sums_t;

INLINE void clear(sums_t *s)
{
    for (int k = 0; k < STREAMS; k++)
        s->a[k] = s->b[k] = v_set(0);
}
INLINE V sum_a(const sums_t *s) { return (s->a[0] + s->a[1]) + (s->a[2] + s->a[3]); }
INLINE V sum_b(const sums_t *s) { return (s->b[0] + s->b[1]) + (s->b[2] + s->b[3]); }

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

INLINE unit_t about(const io_t *x, V centre, int part)
{
    unit_t u = u_load(x, part);
    EACH_PART(p) u.p[p] -= centre;
    return u;
}

/* y of one unit, or of `part` of its values. */
INLINE unit_t normal_unit(const io_t *x, const io_t *residual, const line_t *f, V slope, int part,
                          const int act, const int has_residual)
{
    unit_t y = u_load(x, part), r;
    if (has_residual)
        r = u_load(residual, part);
    EACH_PART(p) y.p[p] = normal(y.p[p], f->c, f->a, has_residual ? f->b + r.p[p] : f->b, slope,
                                 act);
    return y;
}

INLINE void moments_of(const io_t *x, const io_t *residual, int64_t far, int64_t n, V shift,
                       sums_t *m, const int rows, const int ask)
{
    sums_t s = *m;
#define TAKE(k, row, j, part, begins)                                                         \
    do {                                                                                      \
        unit_t d = about(x + (row) * far + (j), shift, part);                                 \
        if (ask && (begins)) {                                                                \
            PREFETCH(x + (row) * far + (j) + AHEAD);                                          \
            if (residual)                                                                     \
                PREFETCH(residual + (row) * far + (j));                                       \
        }                                                                                     \
        if (part)                                                                             \
            d = u_where_first(part, d, u_set(0));                                             \
        EACH_PART(p) {                                                                        \
            s.a[k] += d.p[p];                                                                 \
            s.b[k] = v_fma(d.p[p], d.p[p], s.b[k]);                                           \
        }                                                                                     \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *m = s;
}

/* Add n values of `rows` runs (STREAMS, or 1), `far` apart, to their moments about `shift`. With
 * `ask`, memory is asked for what comes next, and for what the next sweep will read of the
 * residual. */
static NOINLINE void take_moments(const io_t *x, const io_t *residual, int64_t far, int64_t n,
                                  T shift, sums_t *m, int64_t rows, int ask)
{
    if (rows != STREAMS)
        moments_of(x, residual, 0, n, v_set(shift), m, 1, 0);
    else if (ask)
        moments_of(x, residual, far, n, v_set(shift), m, STREAMS, 1);
    else
        moments_of(x, residual, far, n, v_set(shift), m, STREAMS, 0);
}

/* Normalise the runs of a strip with the lines f_, one for each channel. */
INLINE void normalise(const strip_t *s, const io_t *x, const io_t *residual, io_t *y,
                      const numbers_t *f_, V slope, const int stream, int ask, const int act,
                      const int has_residual)
{
    x += s->at;
    y += s->at;
    residual = has_residual ? residual + s->at : NULL;
    for (int64_t i = 0; i < s->rows; i++) {
        line_t f;
#define Y(j, f, part)                                                                         \
    normal_unit(x + (j), has_residual ? residual + (j) : NULL, f, slope, part, act, has_residual)
#define CHANNEL(k) f = line_of(&f_[k])
#define PUT(j, part, stream)                                                                  \
    do {                                                                                      \
        if ((stream) && ask) {                                                                \
            PREFETCH(x + (j) + AHEAD);                                                        \
            if (has_residual)                                                                 \
                PREFETCH(residual + (j) + AHEAD);                                             \
        }                                                                                     \
        put(y + (j), pack(Y(j, &f, part)), part, stream);                                     \
    } while (0)
#define MIX(j, k, ours, stream)                                                               \
    do {                                                                                      \
        const line_t g = line_of(&f_[(k) + 1]);                                               \
        const unit_t own = Y(j, &f, 0), next = Y(j, &g, 0);                                   \
        put(y + (j), pack(u_where_first(ours, own, next)), 0, stream);                        \
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
                                  const numbers_t *f, const act_t *act, int stream, int ask)
{
    const V slope = set_of(act->slope);
#define CALL(A, R)                                                                            \
    if (stream)                                                                               \
        normalise(s, x, residual, y, f, slope, 1, ask, A, R);                                 \
    else                                                                                      \
        normalise(s, x, residual, y, f, slope, 0, 0, A, R)
    DISPATCH(CALL)
#undef CALL
}

/* The mean of the first eighth of a block of runs. */
INLINE T sample_mean(const io_t *x, const runs_t *block)
{
    const int64_t runs = (block->runs + 7) / 8;
    const int64_t n = block->runs > 1 ? block->length : (block->length + 7) / 8;
    V sum = v_set(0);
    for (int64_t i = 0; i < runs; i++)
        sum += first_sum(x + i * block->stride, n);
    return (T)(v_sum(sum) / (double)(runs * n));
}

/* The sums of a block about shift in float64. */
static void wide_sums(const io_t *x, const runs_t *block, T shift, double *sum, double *square)
{
    double s[W] = {0}, q[W] = {0};
    for (int64_t i = 0; i < block->runs; i++)
        for (int64_t j = 0; j < block->length; j += U) {
            const int part = part_of(block->length - j);
            unit_t v = u_load(x + i * block->stride + j, part);
            if (part)
                v = u_where_first(part, v, u_set(shift));
            EACH_PART(p) v_add_squares(s, q, v.p[p], shift);
        }
    *sum = sum_lanes(s);
    *square = sum_lanes(q);
}

/* Merge a block's moments, taken about `shift`, into those of the `count` values before.
 *
 * A value far from all others has a square that swallows digits of those added to it, in the same
 * way again and again. It shows in its lane; such a block is taken in float64. */
INLINE void merge_block(const io_t *x, const runs_t *block, const sums_t *m, T shift, double count,
                        double *mean, double *m2)
{
    const double n = (double)(block->runs * block->length);
    double s = v_sum(sum_a(m)), q = v_sum(sum_b(m));
    if (sizeof(T) < sizeof(double) && (double)v_top(sum_b(m)) * W > 2 * q && squares_are_safe((T)q))
        wide_sums(x, block, shift, &s, &q);
    double block_mean = (double)shift + s / n, block_m2 = q - s * (s / n);
    if (!squares_are_safe((T)q) && !(q == 0 && s == 0))
        careful_moments(x, block, &block_mean, &block_m2);
    merge(&count, mean, m2, n, block_mean, block_m2);
}

static void run_forward(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                        const affine_t *f_, int64_t coming, double *mean, double *m2,
                        const act_t *act, int ask, int stream)
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
#define WRITE(values)                                                                         \
    for (w.owed += (values); next_strip(&w);)                                                 \
    write_normal(&w.last, x, residual, y, f, act, stream, coming == 0)
    for (int64_t i0 = 0; i0 < r->runs && coming; i0 += b.rows)
        for (int64_t j0 = 0; j0 < length; j0 += b.columns) {
            const int64_t rows = r->runs - i0 < b.rows ? r->runs - i0 : b.rows;
            const int64_t columns = length - j0 < b.columns ? length - j0 : b.columns;
            const runs_t block = {rows, columns, r->stride};
            const io_t *from = next + i0 * r->stride + j0;
            for (int64_t k = 0; k < coming; k++) {
                shift[k] = count > 0 ? (T)mean[k] : sample_mean(from + k * length, &block);
                clear(&m[k]);
            }
            for (int64_t i = 0, some; i < rows; i += some) {
                some = rows - i < STREAMS ? 1 : STREAMS;
                for (int64_t j = 0, n; j < columns; j += n) {
                    n = columns - j < 2 * turn ? columns - j : turn;
                    for (int64_t k = 0; k < coming; k++) {
                        const io_t *here = from + i * r->stride + k * length + j;
                        take_moments(here, residual ? residual + (here - x) : NULL, r->stride, n,
                                     shift[k], &m[k], some, ask);
                    }
                    WRITE(coming * some * n);
                }
            }
            for (int64_t k = 0; k < coming; k++)
                merge_block(from + k * length, &block, &m[k], shift[k], count, &mean[k], &m2[k]);
            count += (double)(rows * columns);
        }
    WRITE(now * r->runs * length);
#undef WRITE
}
