/* Batch normalisation where a channel's values lie in runs (NCHW): one run in every sample.
 *
 * A sweep does two things at once, to two groups of neighbouring channels: it takes the sums of
 * the `coming` channels, and writes what becomes of the channels `now`, whose sums the sweep before
 * took and which are still in cache. So memory is read and written at the same time, as a copy
 * does, and the arithmetic hides behind it. Either group may be empty.
 *
 * The runs of a group lie behind one another in every sample, and so they are written as one, in
 * units that are aligned in memory; a unit where one channel ends and the next begins is
 * computed for both. Sums are taken from the first value of a run on, wherever it stands. Runs that
 * share a group are longer than two cache lines.
 */

enum { GROUP = 32 };                      /* channels of a group, at most */
enum { AHEAD = 1024 / sizeof(io_t) };     /* how far ahead memory is asked for */

/* Two partial sums each: a sum of values and one of products. A step of a loop takes two units;
 * part p of unit u goes to sum (u + p) & 1. */
typedef struct {
    V a[2], b[2];
} sums_t;

enum { STEP = 2 * U };

INLINE void clear(sums_t *s) { s->a[0] = s->a[1] = s->b[0] = s->b[1] = v_set(0); }
INLINE V sum_a(const sums_t *s) { return s->a[0] + s->a[1]; }
INLINE V sum_b(const sums_t *s) { return s->b[0] + s->b[1]; }

INLINE void ask_for(const io_t *p)
{
    for (int64_t i = 0; i < STEP; i += LINE)
        PREFETCH(p + i);
}

/* What the sweep over run k of a group's sample i asks for, from the group's first value on: a run
 * `step` further on in the order of the sweep, and the next group's first runs in the end. */
INLINE int64_t ask_from(const runs_t *r, int64_t step, int64_t channels, int64_t i, int64_t k)
{
    if (!step)
        return i * r->stride + k * r->length + AHEAD;
    k += step;
    if (k >= channels && i + 1 < r->runs)
        i += 1, k -= channels;
    else if (k >= channels)
        i = 0;
    return i * r->stride + k * r->length;
}

/* Which of a run's n values are written in whole units, from `head` to `end`: those before belong
 * to the first partial line of the group, or to a unit that the run before has written; those
 * behind belong to the last partial line, or to a unit that goes on into the next run. */
typedef struct {
    int64_t head, end;
    int first, last; /* run of the group */
} extent_t;

INLINE extent_t extent_of(const io_t *to, int64_t n, int first, int last)
{
    extent_t e = {0, n, first, last};
    const int64_t line = to_line(to, n);
    e.head = first ? line : line & (U - 1);
    if (last)
        e.end = n > line ? n - ((n - line) & (LINE - 1)) : e.head;
    return e;
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

INLINE void add_unit(sums_t *s, unit_t d, const int u)
{
    EACH_PART(p) {
        s->a[(u + p) & 1] += d.p[p];
        s->b[(u + p) & 1] = v_fma(d.p[p], d.p[p], s->b[(u + p) & 1]);
    }
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

/* Add the run at `next` to the moments m about `shift` (if `moments`), and normalise the run at x
 * with f[0], and with f[1] where the next channel begins (if `apply`). */
INLINE void forward_run(const io_t *next, V shift, sums_t *m, const io_t *x, const io_t *residual,
                        io_t *y, const line_t *f, V slope, int64_t n, extent_t e, int stream,
                        const io_t *ask, const int act, const int has_residual, const int moments,
                        const int apply)
{
    const int64_t head = apply ? e.head : 0, end = apply ? e.end : n;
    int64_t j = 0;
    sums_t s;
    line_t own;
    if (moments)
        s = *m;
    if (apply)
        own = *f;
#define MOMENTS(u) add_unit(&s, about(next + j + (u) * U, shift, 0), u)
#define Y(f, k, part) \
    normal_unit(x + (k), has_residual ? residual + (k) : NULL, f, slope, part, act, has_residual)
#define PUT(k) put(y + (k), pack(Y(&own, k, 0)), 0, stream)
#define PUT_PARTS(from, to)                                                                   \
    for (int64_t p = (from); p < (to); p += U) {                                              \
        const int part = part_of((to) - p);                                                   \
        put(y + p, pack(Y(&own, p, part)), part, 0);                                          \
    }
    if (apply && e.first)
        PUT_PARTS(0, head);
    for (; head + j + STEP <= end; j += STEP) {
        if (moments) {
            ask_for(ask + j);
            MOMENTS(0);
            MOMENTS(1);
        }
        if (apply) {
            if (!moments)
                ask_for(x + head + j + AHEAD);
            PUT(head + j);
            PUT(head + j + U);
        }
    }
    if (apply) {
        int64_t k = head + j;
        for (; k + U <= end; k += U)
            PUT(k);
        if (e.last) {
            PUT_PARTS(k, n);
        } else if (k < n) {
            put(y + k, pack(u_where_first((int)(n - k), Y(&own, k, 0), Y(f + 1, k, 0))), 0, stream);
        }
    }
    if (moments) {
        for (; j + STEP <= n; j += STEP) { /* once at most */
            MOMENTS(0);
            MOMENTS(1);
        }
        if (j + U <= n) {
            MOMENTS(0);
            j += U;
        }
        if (j < n) {
            const int k = (int)(n - j);
            add_unit(&s, u_where_first(k, about(next + j, shift, k), u_set(0)), 1);
        }
        *m = s;
    }
#undef MOMENTS
#undef Y
#undef PUT
#undef PUT_PARTS
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

INLINE void forward_group(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                          const affine_t *f_, int64_t coming, double *mean, double *m2,
                          const act_t *act_, int stream, const int act, const int has_residual)
{
    const int64_t length = r->length, most = now > coming ? now : coming;
    const int64_t rows = length < BLOCK ? BLOCK / length : 1; /* of a block */
    const int64_t step = AHEAD / length;
    const io_t *x = (const io_t *)t->x + first * length, *next = x + now * length;
    const io_t *residual = has_residual ? (const io_t *)t->residual + first * length : NULL;
    io_t *y = (io_t *)t->y + first * length;
    const V slope = set_of(act_->slope);
    sums_t m[GROUP];
    line_t f[GROUP];
    V shift[GROUP];
    double count = 0.0;
    for (int64_t k = 0; k < now; k++)
        f[k] = line_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++)
        mean[k] = m2[k] = 0.0;
    for (int64_t i0 = 0; i0 < r->runs; i0 += rows)
        for (int64_t j = 0; j < length; j += BLOCK) {
            const int64_t end = i0 + rows < r->runs ? i0 + rows : r->runs;
            const int64_t n = length - j < BLOCK ? length - j : BLOCK;
            const runs_t block = {end - i0, n, r->stride};
            const io_t *at = next + i0 * r->stride + j;
            for (int64_t k = 0; k < coming; k++) {
                shift[k] = v_set(count > 0 ? (T)mean[k] : sample_mean(at + k * length, &block));
                clear(&m[k]);
            }
            for (int64_t i = i0; i < end; i++)
                for (int64_t k = 0; k < most; k++) {
                    const int64_t p = i * r->stride + j + k * length;
#define RUN(MOMENTS, APPLY)                                                                   \
    forward_run(next + p, shift[k], &m[k], x + p, has_residual ? residual + p : NULL, y + p,  \
                &f[k], slope, n, extent_of(y + p, n, k == 0, k == now - 1), stream,           \
                next + j + ask_from(r, step, coming, i, k), act, has_residual, MOMENTS, APPLY)
                    if (k < now && k < coming)
                        RUN(1, 1);
                    else if (k < now)
                        RUN(0, 1);
                    else
                        RUN(1, 0);
#undef RUN
                }
            for (int64_t k = 0; k < coming; k++)
                merge_block(at + k * length, &block, &m[k], shift[k], count, &mean[k], &m2[k]);
            count += (double)(block.runs * block.length);
        }
}

static void run_forward(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                        const affine_t *f, int64_t coming, double *mean, double *m2,
                        const act_t *act, int stream)
{
    const void *residual = t->residual;
#define CALL(A, R) forward_group(t, r, first, now, f, coming, mean, m2, act, stream, A, R)
    DISPATCH(CALL)
#undef CALL
}
