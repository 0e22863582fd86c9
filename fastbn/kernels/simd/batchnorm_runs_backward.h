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

/* Add the run at `next` to its sums with g (if `take`); dx and dresidual of the run at `at`, with
 * f[0], and with f[1] where the next channel begins, as far as they are not NULL (if `apply`). */
INLINE void backward_run(const tensors_t *t, int64_t next, const terms_t *g_, sums_t *sums,
                         int64_t at, const terms_t *f_, int frozen, V slope, int64_t n, extent_t e,
                         int stream, const int64_t ask, const int64_t ask_now, const int act,
                         const int has_residual, const int take, const int apply)
{
    const io_t *x = (const io_t *)t->x, *dy = (const io_t *)t->dy;
    const io_t *residual = (const io_t *)t->residual;
    io_t *dx = t->y ? (io_t *)t->y + at : NULL;
    io_t *dresidual = t->dresidual ? (io_t *)t->dresidual + at : NULL;
    const int64_t head = apply ? e.head : 0, end = apply ? e.end : n;
    const int stream_d = stream && ((uintptr_t)dresidual & (U * sizeof(io_t) - 1)) ==
                                       ((uintptr_t)dx & (U * sizeof(io_t) - 1));
    int64_t j = 0;
    terms_t f, g;
    sums_t s;
    if (take)
        s = *sums, g = *g_;
    if (apply)
        f = *f_;
#define D(xc, k, f, part)                                                                     \
    gradient_unit(xc, dy + (k), has_residual ? residual + (k) : NULL, f, slope, part, act,    \
                  has_residual)
#define TAKE(k, u, part) /* in the lanes beyond, dy and x - centre are 0 */                   \
    do {                                                                                      \
        unit_t xc = about(x + next + (k), g.c, part);                                         \
        if (part)                                                                             \
            xc = u_where_first(part, xc, u_set(0));                                           \
        const unit_t d = D(xc, next + (k), &g, part);                                         \
        EACH_PART(p) {                                                                        \
            s.a[((u) + p) & 1] += d.p[p];                                                     \
            s.b[((u) + p) & 1] = v_fma(d.p[p], xc.p[p], s.b[((u) + p) & 1]);                  \
        }                                                                                     \
    } while (0)
#define APPLY(k, part, stream, stream_d)                                                      \
    do {                                                                                      \
        const unit_t xc = about(x + at + (k), f.c, part), d = D(xc, at + (k), &f, part);      \
        if (dresidual)                                                                        \
            put(dresidual + (k), pack(d), part, stream_d);                                    \
        if (dx)                                                                               \
            put(dx + (k), pack(dx_unit(xc, d, &f, frozen)), part, stream);                    \
    } while (0)
#define APPLY_PARTS(from, to)                                                                 \
    for (int64_t p = (from); p < (to); p += U) {                                              \
        const int part = part_of((to) - p);                                                   \
        APPLY(p, part, 0, 0);                                                                 \
    }
    if (apply && e.first)
        APPLY_PARTS(0, head);
    for (; head + j + STEP <= end; j += STEP) {
        if (take) {
            ask_for(x + ask + j);
            ask_for(dy + ask + j);
            TAKE(j, 0, 0);
            TAKE(j + U, 1, 0);
        }
        if (apply) {
            ask_for(x + ask_now + j);
            ask_for(dy + ask_now + j);
            APPLY(head + j, 0, stream, stream_d);
            APPLY(head + j + U, 0, stream, stream_d);
        }
    }
    if (apply) {
        int64_t k = head + j;
        for (; k + U <= end; k += U)
            APPLY(k, 0, stream, stream_d);
        if (e.last) {
            APPLY_PARTS(k, n);
        } else if (k < n) {
            const int ours = (int)(n - k);
            const unit_t xc = about(x + at + k, f.c, 0), xc1 = about(x + at + k, f_[1].c, 0);
            const unit_t d = D(xc, at + k, &f, 0), d1 = D(xc1, at + k, &f_[1], 0);
            if (dresidual)
                put(dresidual + k, pack(u_where_first(ours, d, d1)), 0, stream_d);
            if (dx)
                put(dx + k,
                    pack(u_where_first(ours, dx_unit(xc, d, &f, frozen),
                                       dx_unit(xc1, d1, &f_[1], frozen))),
                    0, stream);
        }
    }
    if (take) {
        for (; j + STEP <= n; j += STEP) {
            TAKE(j, 0, 0);
            TAKE(j + U, 1, 0);
        }
        if (j + U <= n) {
            TAKE(j, 0, 0);
            j += U;
        }
        if (j < n)
            TAKE(j, 1, (int)(n - j));
        *sums = s;
    }
#undef D
#undef TAKE
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
    const V slope = set_of(act_->slope);
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
    backward_run(t, next + p, &g[k], &s[k], from + p, &f[k], frozen, slope, n,                \
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
                sum_d[k] += v_sum(sum_a(&s[k]));
                sum_dx[k] += v_sum(sum_b(&s[k]));
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
