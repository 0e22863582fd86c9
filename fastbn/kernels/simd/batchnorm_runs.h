/* Batch normalisation where a channel's values lie in runs (NCHW): one run in every sample.
 *
 * A sweep does two things in turns, to two groups of neighbouring channels: it takes the sums of
 * the `coming` channels, and writes what becomes of the channels `now`, whose sums the sweep before
 * took and which are still in cache. The turns are so short that memory is read and written at the
 * same time, as a copy does, and the arithmetic hides behind it. Either group may be empty.
 *
 * Sums are taken from STREAMS samples at once. The runs of a group lie behind one another in every
 * sample, and so they are written as one, in units that are aligned in memory; a unit where one
 * channel ends and the next begins is computed for both. Runs that share a group are longer than
 * two cache lines.
 */

enum { GROUP = 32 };                      /* channels of a group, at most */
enum { AHEAD = 1024 / sizeof(io_t) };     /* how far ahead memory is asked for */
enum { TURN = 4 * LINE };                 /* values of a run that are read in a turn; */
enum { WHOLE_TURN = 16 * LINE };          /* of a run up to this length, all */

INLINE int64_t turn_of(const runs_t *r, int64_t arrays)
{
    return r->length <= WHOLE_TURN ? r->length : TURN / arrays;
}

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

/* TAKE(k, row, j, part, ask) for all n values of `rows` runs (STREAMS, or 1). Line k of a step is that
 * of row k, or the k-th one of the only row; `part` of a unit's values are there, or all if that is
 * 0; memory is asked for (`ask`) once for every line. */
#define EACH_LINE(n, rows, TAKE)                                                              \
    do {                                                                                      \
        int64_t i_ = 0;                                                                       \
        const int64_t next_ = (rows) == 1 ? LINE : 0, step_ = LINE + (STREAMS - 1) * next_;   \
        for (; i_ + step_ <= (n); i_ += step_)                                                \
            UNROLL for (int k_ = 0; k_ < STREAMS; k_++)                                       \
                UNROLL for (int u_ = 0; u_ < LINE; u_ += U)                                   \
                    TAKE(k_, (rows) == 1 ? 0 : k_, i_ + k_ * next_ + u_, 0, u_ == 0);         \
        for (; i_ < (n); i_ += U)                                                             \
            UNROLL for (int k_ = 0; k_ < (rows); k_++)                                        \
                TAKE(k_, k_, i_, part_of((n) - i_), 0);                                       \
    } while (0)

/* How the runs of a channel are cut into blocks. */
typedef struct {
    int64_t rows, columns;
} block_t;

INLINE block_t block_of(const runs_t *r)
{
    const int64_t least = r->runs < STREAMS ? 1 : STREAMS, most = BLOCK / least;
    block_t b = {r->length < most ? BLOCK / r->length : least, most};
    if (b.rows > STREAMS)
        b.rows -= b.rows % STREAMS;
    return b;
}

/* What is written: rows of runs one behind the other, piece by piece. */
typedef struct {
    const io_t *to; /* where the first value goes */
    int64_t length, stride, channels, rows;
    int64_t row, k, j; /* the next piece: row, channel, first value */
} writer_t;

/* Values `at` to at + n - 1, of channel k. Those of whole units begin at `head` and end before
 * `end`: those before belong to the first partial line of a row, or to a unit that the run before
 * has written; those behind belong to the last partial line, or, if the row `goes_on` with another
 * channel, to a unit that is both's. */
typedef struct {
    int64_t at, n, head, end, k;
    int goes_on;
} piece_t;

INLINE writer_t writer_of(const io_t *to, const runs_t *r, int64_t channels, int64_t rows)
{
    const writer_t w = {to, r->length, r->stride, channels, channels ? rows : 0, 0, 0, 0};
    return w;
}

/* The next piece, of about `most` values: if it does not end its run, it ends a line. */
INLINE piece_t next_piece(writer_t *w, int64_t most)
{
    const int64_t run = w->row * w->stride + w->k * w->length, left = w->length - w->j;
    const io_t *to = w->to + run + w->j;
    const int64_t n = left <= most ? left : most + to_line(to + most, left - most);
    const int64_t line = to_line(to, n);
    piece_t p;
    p.at = run + w->j;
    p.n = n;
    p.k = w->k;
    p.goes_on = n == left && w->k + 1 < w->channels;
    p.head = w->j == 0 && w->k > 0 ? line & (U - 1) : line;
    p.end = p.goes_on ? n : n - ((n - line) & (LINE - 1));
    w->j += n;
    if (n == left) {
        w->j = 0;
        if (++w->k == w->channels)
            w->k = 0, w->row++;
    }
    return p;
}

/* ---- forward: y = act((x - centre) * a + b + residual) ---- */

typedef struct {
    V c, a, b;
} line_t; /* a line in the sense of geometry */

INLINE line_t line_of(const affine_t *f)
{
    const line_t line = {set_of(f->centre), set_of(f->a), set_of(f->b)};
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
                       sums_t *m, const int rows)
{
    sums_t s = *m;
#define TAKE(k, row, j, part, ask)                                                            \
    do {                                                                                      \
        unit_t d = about(x + (row) * far + (j), shift, part);                                 \
        if (ask) {                                                                            \
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

/* Add n values of `rows` runs (STREAMS, or 1), `far` apart, to their moments about `shift`. What the
 * next sweep will read of the residual, if there is one, is fetched meanwhile. */
static NOINLINE void take_moments(const io_t *x, const io_t *residual, int64_t far, int64_t n,
                                  const V *shift, sums_t *m, int64_t rows)
{
    if (rows == STREAMS)
        moments_of(x, residual, far, n, *shift, m, STREAMS);
    else
        moments_of(x, residual, 0, n, *shift, m, 1);
}

/* Normalise piece e with f_[e->k], and with the next one where the next channel begins. */
INLINE void normalise(const piece_t e, const io_t *x, const io_t *residual, io_t *y,
                      const line_t *f_, V slope, int stream, int ask, const int act,
                      const int has_residual)
{
    const line_t f = f_[e.k];
    int64_t j = 0;
    x += e.at;
    y += e.at;
    residual = has_residual ? residual + e.at : NULL;
#define Y(j, f, part)                                                                         \
    normal_unit(x + (j), has_residual ? residual + (j) : NULL, f, slope, part, act, has_residual)
#define PUT_PARTS(end)                                                                        \
    for (; j < (end); j += U) {                                                               \
        const int part = part_of((end) - j);                                                  \
        put(y + j, pack(Y(j, &f, part)), part, 0);                                            \
    }
    if (e.k == 0)
        PUT_PARTS(e.head);
    for (j = e.head; j + LINE <= e.end; j += LINE) {
        if (ask) {
            PREFETCH(x + j + AHEAD);
            if (has_residual)
                PREFETCH(residual + j + AHEAD);
        }
        UNROLL for (int u = 0; u < LINE; u += U)
            put(y + j + u, pack(Y(j + u, &f, 0)), 0, stream);
    }
    for (; j + U <= e.end; j += U)
        put(y + j, pack(Y(j, &f, 0)), 0, stream);
    if (!e.goes_on) {
        PUT_PARTS(e.n);
    } else if (j < e.n) {
        const unit_t own = Y(j, &f, 0), next = Y(j, &f_[e.k + 1], 0);
        put(y + j, pack(u_where_first((int)(e.n - j), own, next)), 0, stream);
    }
#undef Y
#undef PUT_PARTS
}

/* Normalise pieces until `owed` values are written, or all; returns how many are owed then. */
static NOINLINE int64_t write_normal(writer_t *w, int64_t owed, const io_t *x,
                                     const io_t *residual, io_t *y, const line_t *f,
                                     const act_t *act, int stream, int ask)
{
    const V slope = set_of(act->slope);
    while (owed > 0 && w->row < w->rows) {
        const piece_t e = next_piece(w, owed);
#define CALL(A, R) normalise(e, x, residual, y, f, slope, stream, ask, A, R)
        DISPATCH(CALL)
#undef CALL
        owed -= e.n;
    }
    return owed;
}

/* The mean of the first eighth of a block of runs. */
INLINE T sample_mean(const io_t *x, const runs_t *block)
{
    const int64_t runs = (block->runs + 7) / 8;
    const int64_t n = block->runs > 1 ? block->length : (block->length + 7) / 8;
    double sum = 0.0;
    for (int64_t i = 0; i < runs; i++)
        sum += first_sum(x + i * block->stride, n);
    return (T)(sum / (double)(runs * n));
}

/* The sums of a block about shift in float64. */
static void wide_sums(const io_t *x, const runs_t *block, V shift, double *sum, double *square)
{
    double s[W] = {0}, q[W] = {0};
    for (int64_t i = 0; i < block->runs; i++)
        for (int64_t j = 0; j < block->length; j += U) {
            const int part = part_of(block->length - j);
            unit_t v = u_load(x + i * block->stride + j, part);
            if (part)
                v = u_where_first(part, v, u_set(v_get(shift)));
            EACH_PART(p) v_add_squares(s, q, v.p[p], v_get(shift));
        }
    *sum = sum_lanes(s);
    *square = sum_lanes(q);
}

/* Merge a block's moments, taken about `shift`, into those of the `count` values before.
 *
 * A value far from all others has a square that swallows digits of those added to it, in the same
 * way again and again. It shows in its lane; such a block is taken in float64. */
INLINE void merge_block(const io_t *x, const runs_t *block, const sums_t *m, V shift, double count,
                        double *mean, double *m2)
{
    const double n = (double)(block->runs * block->length);
    double lanes[W] = {0}, top = 0.0;
    v_add_to(lanes, sum_b(m));
    for (int i = 0; i < W; i++)
        top = lanes[i] > top ? lanes[i] : top;
    double s = v_sum(sum_a(m)), q = sum_lanes(lanes);
    if (sizeof(T) < sizeof(double) && top * W > 2 * q && squares_are_safe((T)q))
        wide_sums(x, block, shift, &s, &q);
    double block_mean = (double)v_get(shift) + s / n, block_m2 = q - s * (s / n);
    if (!squares_are_safe((T)q) && !(q == 0 && s == 0))
        careful_moments(x, block, &block_mean, &block_m2);
    merge(&count, mean, m2, n, block_mean, block_m2);
}

static void run_forward(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                        const affine_t *f_, int64_t coming, double *mean, double *m2,
                        const act_t *act, int stream)
{
    const int64_t length = r->length;
    const io_t *x = (const io_t *)t->x + first * length, *next = x + now * length;
    const io_t *residual = t->residual ? (const io_t *)t->residual + first * length : NULL;
    io_t *y = (io_t *)t->y + first * length;
    sums_t m[GROUP];
    line_t f[GROUP];
    V shift[GROUP];
    const block_t b = block_of(r);
    const int64_t turn = turn_of(r, 1);
    double count = 0.0;
    for (int64_t k = 0; k < now; k++)
        f[k] = line_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++)
        mean[k] = m2[k] = 0.0;
    for (int64_t i0 = 0; i0 < r->runs; i0 += b.rows) {
        const int64_t rows = r->runs - i0 < b.rows ? r->runs - i0 : b.rows, at = i0 * r->stride;
        writer_t w = writer_of(y + at, r, now, rows);
        int64_t owed = 0;
#define WRITE(owed)                                                                           \
    write_normal(&w, owed, x + at, residual ? residual + at : NULL, y + at, f, act, stream,   \
                 coming == 0)
        for (int64_t j0 = 0; j0 < length && coming; j0 += b.columns) {
            const int64_t columns = length - j0 < b.columns ? length - j0 : b.columns;
            const runs_t block = {rows, columns, r->stride};
            const io_t *from = next + at + j0;
            for (int64_t k = 0; k < coming; k++) {
                shift[k] = v_set(count > 0 ? (T)mean[k] : sample_mean(from + k * length, &block));
                clear(&m[k]);
            }
            for (int64_t i = 0, some; i < rows; i += some) {
                some = rows - i < STREAMS ? 1 : STREAMS;
                for (int64_t k = 0; k < coming; k++)
                    for (int64_t j = 0, n; j < columns; j += n) {
                        const io_t *here = from + i * r->stride + k * length + j;
                        n = columns - j < 2 * turn ? columns - j : turn;
                        take_moments(here, residual ? residual + (here - x) : NULL, r->stride, n,
                                     &shift[k], &m[k], some);
                        owed = WRITE(owed + some * n);
                    }
            }
            for (int64_t k = 0; k < coming; k++)
                merge_block(from + k * length, &block, &m[k], shift[k], count, &mean[k], &m2[k]);
            count += (double)(rows * columns);
        }
        WRITE(INT64_MAX);
#undef WRITE
    }
}
