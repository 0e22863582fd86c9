/* Batch normalisation where a channel's values lie in runs (NCHW): one run in every sample.
 *
 * A sweep does two things at once, to two groups of neighbouring channels: it takes the sums of
 * the `coming` channels, and writes what becomes of the channels `now`, whose sums the sweep before
 * took and which are still in cache. So memory is read and written at the same time, as a copy
 * does, and the arithmetic hides behind it. Either group may be empty.
 *
 * The runs of a group lie behind one another in every sample, and so they are written as one, in
 * vectors that are aligned in memory; a vector where one channel ends and the next begins is
 * computed for both. Sums are taken from the first value of a run on, wherever it stands. Runs that
 * share a group are longer than two cache lines.
 */

enum { GROUP = 32 };                      /* channels of a group, at most */
enum { AHEAD = 1024 / sizeof(io_t) };     /* how far ahead memory is asked for */

/* Two partial sums each: a sum of values and one of products. */
typedef struct {
    V a0, a1, b0, b1;
} sums_t;

INLINE void clear(sums_t *s) { s->a0 = s->a1 = s->b0 = s->b1 = v_set(0); }

INLINE void ask_for(const io_t *p)
{
    for (int64_t i = 0; i < 2 * W; i += LINE)
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

/* Which of a run's n values are written in whole vectors, from `head` to `end`: those before belong
 * to the first partial line of the group, or to a vector that the run before has written; those
 * behind belong to the last partial line, or to a vector that goes on into the next run. */
typedef struct {
    int64_t head, end;
    int first, last; /* run of the group */
} extent_t;

INLINE extent_t extent_of(const io_t *to, int64_t n, int first, int last)
{
    extent_t e = {0, n, first, last};
    const int64_t line = to_line(to, n);
    e.head = first ? line : line & (W - 1);
    if (last)
        e.end = n > line ? n - ((n - line) & (LINE - 1)) : e.head;
    return e;
}

/* ---- forward: y = act((x - centre) * a + b + residual) ---- */

typedef struct {
    V c, a, b;
} line_t; /* a line in the sense of geometry */

INLINE V normal(V x, V c, V a, V b, V slope, const int act)
{
    return activate(v_fma(x - c, a, b), act, slope);
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
    V c, a, b;
    if (moments)
        s = *m;
    if (apply)
        c = f->c, a = f->a, b = f->b;
#define TWO_MOMENTS                                                                           \
    do {                                                                                      \
        const V d0 = v_load(next + j) - shift, d1 = v_load(next + j + W) - shift;             \
        s.a0 += d0, s.a1 += d1;                                                               \
        s.b0 = v_fma(d0, d0, s.b0), s.b1 = v_fma(d1, d1, s.b1);                               \
    } while (0)
#define Y(k)                                                                                  \
    normal(v_load(x + (k)), c, a, has_residual ? b + v_load(residual + (k)) : b, slope, act)
#define Y_PARTS(from, to)                                                                     \
    for (int64_t p = (from); p < (to); p += W) {                                              \
        const int part = (int)((to) - p < W ? (to) - p : W);                                  \
        v_store_part(y + p,                                                                   \
                     normal(v_load_part(x + p, part, 0), c, a,                                \
                            has_residual ? b + v_load_part(residual + p, part, 0) : b, slope, \
                            act),                                                             \
                     part);                                                                   \
    }
    if (apply && e.first)
        Y_PARTS(0, head);
    for (; head + j + 2 * W <= end; j += 2 * W) {
        if (moments) {
            ask_for(ask + j);
            TWO_MOMENTS;
        }
        if (apply) {
            if (!moments)
                ask_for(x + head + j + AHEAD);
            put(y + head + j, Y(head + j), stream);
            put(y + head + j + W, Y(head + j + W), stream);
        }
    }
    if (apply) {
        int64_t k = head + j;
        for (; k + W <= end; k += W)
            put(y + k, Y(k), stream);
        if (e.last) {
            Y_PARTS(k, n);
        } else if (k < n) {
            const V xk = v_load(x + k), rk = has_residual ? v_load(residual + k) : v_set(0);
            put(y + k,
                v_where(v_first((int)(n - k)),
                        normal(xk, c, a, has_residual ? b + rk : b, slope, act),
                        normal(xk, f[1].c, f[1].a, has_residual ? f[1].b + rk : f[1].b, slope,
                               act)),
                stream);
        }
    }
    if (moments) {
        for (; j + 2 * W <= n; j += 2 * W) /* once at most */
            TWO_MOMENTS;
        if (j + W <= n) {
            const V d = v_load(next + j) - shift;
            s.a0 += d;
            s.b0 = v_fma(d, d, s.b0);
            j += W;
        }
        if (j < n) {
            const int k = (int)(n - j);
            const V d = v_where(v_first(k), v_load_part(next + j, k, 0) - shift, v_set(0));
            s.a1 += d;
            s.b1 = v_fma(d, d, s.b1);
        }
        *m = s;
    }
#undef Y
#undef Y_PARTS
#undef TWO_MOMENTS
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
        for (int64_t j = 0; j < block->length; j += W) {
            const io_t *p = x + i * block->stride + j;
            const int part = block->length - j < W ? (int)(block->length - j) : W;
            const V v = part < W ? v_load_part(p, part, v_get(shift)) : v_load(p);
            v_add_squares(s, q, v, v_get(shift));
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
    v_add_to(lanes, m->b0 + m->b1);
    for (int i = 0; i < W; i++)
        top = lanes[i] > top ? lanes[i] : top;
    double s = v_sum(m->a0 + m->a1), q = sum_lanes(lanes);
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
    const V slope = v_set((T)act_->slope);
    sums_t m[GROUP];
    line_t f[GROUP];
    V shift[GROUP];
    double count = 0.0;
    for (int64_t k = 0; k < now; k++)
        f[k].c = v_set((T)f_[k].centre), f[k].a = v_set((T)f_[k].a), f[k].b = v_set((T)f_[k].b);
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

/* ---- backward: sums of d and d * (x - centre), dx = a * d + (x - centre) * k1 + k0 ---- */

typedef struct {
    V c, a, b, k0, k1;
} terms_t;

INLINE terms_t terms_of(const affine_t *f)
{
    terms_t t = {v_set((T)f->centre), v_set((T)f->a), v_set((T)f->b), v_set((T)f->k0),
                 v_set((T)f->k1)};
    return t;
}

/* Add the run at `next` to its sums with g (if `take`); dx and dresidual of the run at `at`, with
 * f[0], and with f[1] where the next channel begins, as far as they are not NULL (if `apply`). */
INLINE void backward_run(const tensors_t *t, int64_t next, const terms_t *g_, sums_t *sums,
                         int64_t at, const terms_t *f_, V keep, V slope, int64_t n, extent_t e,
                         int stream, const int64_t ask, const int64_t ask_now, const int act,
                         const int has_residual, const int take, const int apply)
{
    const io_t *x = (const io_t *)t->x, *dy = (const io_t *)t->dy;
    const io_t *residual = (const io_t *)t->residual;
    io_t *dx = t->y ? (io_t *)t->y + at : NULL;
    io_t *dresidual = t->dresidual ? (io_t *)t->dresidual + at : NULL;
    const io_t *xn = x + next, *dyn = dy + next, *rn = has_residual ? residual + next : NULL;
    const int64_t head = apply ? e.head : 0, end = apply ? e.end : n;
    const int stream_d = stream && ((uintptr_t)dresidual & (W * sizeof(io_t) - 1)) ==
                                       ((uintptr_t)dx & (W * sizeof(io_t) - 1));
    int64_t j = 0;
    terms_t f, g;
    sums_t s;
    if (take)
        s = *sums, g = *g_;
    if (apply)
        f = *f_;
#define TAKE(k, a_, b_)                                                                       \
    do {                                                                                      \
        const V xc = v_load(xn + (k)) - g.c;                                                  \
        const V d = gradient(xc, v_load(dyn + (k)), g.a,                                      \
                             has_residual ? g.b + v_load(rn + (k)) : g.b, slope, act);        \
        s.a_ += d;                                                                            \
        s.b_ = v_fma(d, xc, s.b_);                                                            \
    } while (0)
#define XC(f, k) (v_load(x + at + (k)) - (f).c)
#define D(f, xc, k)                                                                           \
    gradient(xc, v_load(dy + at + (k)), (f).a,                                                \
             has_residual ? (f).b + v_load(residual + at + (k)) : (f).b, slope, act)
#define DX(f, xc, d) input_gradient(xc, d, (f).a, (f).k0, (f).k1, keep)
#define APPLY(k)                                                                              \
    do {                                                                                      \
        const V xc = XC(f, k), d = D(f, xc, k);                                               \
        if (dresidual)                                                                        \
            put(dresidual + (k), d, stream_d);                                                \
        if (dx)                                                                               \
            put(dx + (k), DX(f, xc, d), stream);                                              \
    } while (0)
#define APPLY_PARTS(from, to)                                                                 \
    for (int64_t p = (from); p < (to); p += W) {                                              \
        const int part = (int)((to) - p < W ? (to) - p : W);                                  \
        const V xc = v_load_part(x + at + p, part, 0) - f.c;                                  \
        const V d = gradient(                                                                 \
            xc, v_load_part(dy + at + p, part, 0), f.a,                                       \
            has_residual ? f.b + v_load_part(residual + at + p, part, 0) : f.b, slope, act);  \
        if (dresidual)                                                                        \
            v_store_part(dresidual + p, d, part);                                             \
        if (dx)                                                                               \
            v_store_part(dx + p, DX(f, xc, d), part);                                         \
    }
    if (apply && e.first)
        APPLY_PARTS(0, head);
    for (; head + j + 2 * W <= end; j += 2 * W) {
        if (take) {
            ask_for(x + ask + j);
            ask_for(dy + ask + j);
            TAKE(j, a0, b0);
            TAKE(j + W, a1, b1);
        }
        if (apply) {
            ask_for(x + ask_now + j);
            ask_for(dy + ask_now + j);
            APPLY(head + j);
            APPLY(head + j + W);
        }
    }
    if (apply) {
        int64_t k = head + j;
        for (; k + W <= end; k += W)
            APPLY(k);
        if (e.last) {
            APPLY_PARTS(k, n);
        } else if (k < n) {
            const VI ours = v_first((int)(n - k));
            const V xc = XC(f, k), d = D(f, xc, k), xc1 = XC(f_[1], k), d1 = D(f_[1], xc1, k);
            if (dresidual)
                put(dresidual + k, v_where(ours, d, d1), stream_d);
            if (dx)
                put(dx + k, v_where(ours, DX(f, xc, d), DX(f_[1], xc1, d1)), stream);
        }
    }
    if (take) {
        for (; j + 2 * W <= n; j += 2 * W) {
            TAKE(j, a0, b0);
            TAKE(j + W, a1, b1);
        }
        if (j + W <= n) {
            TAKE(j, a0, b0);
            j += W;
        }
        if (j < n) { /* in the lanes beyond, dy and x - centre are 0 */
            const int k = (int)(n - j);
            const V xc = v_where(v_first(k), v_load_part(xn + j, k, 0) - g.c, v_set(0));
            const V d = gradient(xc, v_load_part(dyn + j, k, 0), g.a,
                                 has_residual ? g.b + v_load_part(rn + j, k, 0) : g.b, slope, act);
            s.a1 += d;
            s.b1 = v_fma(d, xc, s.b1);
        }
        *sums = s;
    }
#undef TAKE
#undef XC
#undef D
#undef DX
#undef APPLY
#undef APPLY_PARTS
}

INLINE void backward_group(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                           const affine_t *f_, int64_t coming, const affine_t *g_, double *sum_d,
                           double *sum_dx, const act_t *act_, int frozen, int stream,
                           const int act, const int has_residual)
{
    const int64_t length = r->length, most = now > coming ? now : coming;
    const int64_t rows = length < BLOCK ? BLOCK / length : 1; /* of a block */
    const int64_t step = AHEAD / length;
    const int64_t from = first * length, next = from + now * length;
    const io_t *to = (const io_t *)(t->y ? t->y : t->dresidual) + from; /* what is aligned */
    const V slope = v_set((T)act_->slope), keep = v_all(!frozen);
    sums_t s[GROUP];
    terms_t f[GROUP], g[GROUP];
    stream = stream && t->y;
    for (int64_t k = 0; k < now; k++)
        f[k] = terms_of(&f_[k]);
    for (int64_t k = 0; k < coming; k++) {
        g[k] = terms_of(&g_[k]);
        sum_d[k] = sum_dx[k] = 0.0;
    }
    for (int64_t i0 = 0; i0 < r->runs; i0 += rows)
        for (int64_t j = 0; j < length; j += BLOCK) {
            const int64_t end = i0 + rows < r->runs ? i0 + rows : r->runs;
            const int64_t n = length - j < BLOCK ? length - j : BLOCK;
            for (int64_t k = 0; k < coming; k++)
                clear(&s[k]);
            for (int64_t i = i0; i < end; i++)
                for (int64_t k = 0; k < most; k++) {
                    const int64_t p = i * r->stride + j + k * length;
#define RUN(TAKE, APPLY)                                                                      \
    backward_run(t, next + p, &g[k], &s[k], from + p, &f[k], keep, slope, n,                  \
                 extent_of(to + p, n, k == 0, k == now - 1), stream,                          \
                 next + j + ask_from(r, step, coming, i, k),                                  \
                 from + j + ask_from(r, step, now, i, k),                                     \
                 act, has_residual, TAKE, APPLY)
                    if (k < now && k < coming)
                        RUN(1, 1);
                    else if (k < now)
                        RUN(0, 1);
                    else
                        RUN(1, 0);
#undef RUN
                }
            for (int64_t k = 0; k < coming; k++) {
                sum_d[k] += v_sum(s[k].a0 + s[k].a1);
                sum_dx[k] += v_sum(s[k].b0 + s[k].b1);
            }
        }
}

static void run_backward(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                         const affine_t *f, int64_t coming, const affine_t *g, double *sum_d,
                         double *sum_dx, const act_t *act, int frozen, int stream)
{
    const void *residual = t->residual;
#define CALL(A, R)                                                                            \
    backward_group(t, r, first, now, f, coming, g, sum_d, sum_dx, act, frozen, stream, A, R)
    DISPATCH(CALL)
#undef CALL
}
