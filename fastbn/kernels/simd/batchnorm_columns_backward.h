/* Backward of batchnorm_columns.h: sums of d and d * (x - centre), then dx. */

/* The machine fetches two arrays of wide rows ahead by itself; narrow rows are asked for. */
enum { SUM_STRIP = 2 * W, NARROW = 1024 / sizeof(io_t) };

/* Add rows of a strip to its sums: of d, and of d * (x - centre); see strip_moments. */
INLINE void strip_sums(const io_t *x, const io_t *dy, const io_t *residual, int64_t ld,
                       int64_t rows, const T *centre, const T *a_, const T *b_, V slope, T *sum_d,
                       T *sum_dx, int part, const int act, const int has_residual,
                       const int width)
{
    unit_t c[SUM_STRIP / U], a[SUM_STRIP / U], b[SUM_STRIP / U], s[SUM_STRIP / U];
    unit_t q[SUM_STRIP / U];
    UNROLL for (int u = 0; u < width / U; u++) {
        c[u] = u_loadt(centre + u * U);
        a[u] = u_loadt(a_ + u * U);
        b[u] = u_loadt(b_ + u * U);
        s[u] = u_loadt(sum_d + u * U);
        q[u] = u_loadt(sum_dx + u * U);
    }
    for (int64_t i = 0; i < rows; i++) {
        if (ld <= NARROW) {
            PREFETCH(x + (i + BLOCK_ROWS) * ld);
            PREFETCH(dy + (i + BLOCK_ROWS) * ld);
        }
        UNROLL for (int u = 0; u < width / U; u++) {
            const int64_t at = i * ld + u * U;
            const unit_t v = u_load(x + at, part), g = u_load(dy + at, part);
            unit_t r;
            if (has_residual)
                r = u_load(residual + at, part);
            EACH_PART(p) {
                const V xc = v.p[p] - c[u].p[p];
                const V d = gradient(xc, g.p[p], a[u].p[p],
                                     has_residual ? b[u].p[p] + r.p[p] : b[u].p[p], slope, act);
                s[u].p[p] += d;
                q[u].p[p] = v_fma(d, xc, q[u].p[p]);
            }
        }
    }
    UNROLL for (int u = 0; u < width / U; u++) {
        u_storet(sum_d + u * U, s[u]);
        u_storet(sum_dx + u * U, q[u]);
    }
}

/* By itself, so that nothing else takes registers from the sums. */
NOINLINE static void add_sums(const io_t *x, const io_t *dy, const io_t *res, int64_t ld,
                              int64_t rows, int64_t columns, const affines_t *f, const act_t *act,
                              T *sum_d, T *sum_dx)
{
    const T *c = f->centre, *a = f->a, *b = f->b;
    const void *residual = res;
    const V slope = v_set(plain_nan((T)act->slope));
    for (int64_t i = 0; i < rows; i += BLOCK_ROWS) {
        const int64_t some = rows - i < BLOCK_ROWS ? rows - i : BLOCK_ROWS;
        int64_t j = 0;
#define SUMS(A, R, PART, WIDTH)                                                               \
    strip_sums(x + i * ld + j, dy + i * ld + j, R ? res + i * ld + j : NULL, ld, some, c + j, \
               a + j, b + j, slope, sum_d + j, sum_dx + j, PART, A, R, WIDTH)
#define CALL(A, R)                                                                            \
    for (; j + SUM_STRIP <= columns; j += SUM_STRIP)                                          \
        SUMS(A, R, 0, SUM_STRIP);                                                             \
    for (; j + U <= columns; j += U)                                                          \
        SUMS(A, R, 0, U);                                                                     \
    if (j < columns)                                                                          \
        SUMS(A, R, (int)(columns - j), U)
        DISPATCH(CALL)
#undef CALL
#undef SUMS
    }
}

/* Add the sums of `rows` rows to sum_d and sum_dx. columns <= TILE. */
static void col_grad_sums(const void *x_, const void *dy_, const void *residual, int64_t rows,
                          int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                          double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const int64_t padded = whole_units(columns);
    T s[TILE + U], p[TILE + U];
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const int64_t last = rows - first < SUM_ROWS ? rows : first + SUM_ROWS;
        fill(s, padded, 0);
        fill(p, padded, 0);
        add_sums(x + first * ld, dy + first * ld, res ? res + first * ld : NULL, ld,
                 last - first, columns, f, act, s, p);
        add_to_doubles(sum_d, s, columns);
        add_to_doubles(sum_dx, p, columns);
    }
}

INLINE void grad_rows(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                      io_t *dresidual, int64_t ld, int64_t columns, const T *c_, const T *a_,
                      const T *b_, const T *k0_, const T *k1_, int frozen, V slope, int64_t ahead,
                      int stream, const int act, const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(part)                                                                           \
    do {                                                                                      \
        const unit_t c = u_loadt(c_ + j), a = u_loadt(a_ + j), b = u_loadt(b_ + j);           \
        const unit_t k0 = u_loadt(k0_ + j), k1 = u_loadt(k1_ + j);                            \
        M dx_[GRAD_ROWS] = {0}, d_[GRAD_ROWS] = {0};                                          \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            unit_t v = u_load(x + k * ld + j, part), d = u_load(dy + k * ld + j, part), r;    \
            if (has_residual)                                                                 \
                r = u_load(residual + k * ld + j, part);                                      \
            EACH_PART(p) {                                                                    \
                const V xc = v.p[p] - c.p[p];                                                 \
                d.p[p] = gradient(xc, d.p[p], a.p[p],                                         \
                                  has_residual ? b.p[p] + r.p[p] : b.p[p], slope, act);       \
                v.p[p] = input_gradient(xc, d.p[p], a.p[p], k0.p[p], k1.p[p], frozen);          \
            }                                                                                 \
            if (dresidual)                                                                    \
                d_[k] = pack(d);                                                              \
            if (dx)                                                                           \
                dx_[k] = pack(v);                                                             \
        }                                                                                     \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            if (dresidual)                                                                    \
                put(dresidual + k * ld + j, d_[k], part, 0);                                  \
            if (dx)                                                                           \
                put(dx + k * ld + j, dx_[k], part, stream);                                   \
        }                                                                                     \
    } while (0)
    while (j + LINE <= columns) {
        if (K == 1) {
            PREFETCH(x + j + ahead);
            PREFETCH(dy + j + ahead);
            if (has_residual)
                PREFETCH(residual + j + ahead);
        }
        UNROLL for (int v = 0; v < LINE; v += U, j += U)
            APPLY(0);
    }
    for (; j + U <= columns; j += U)
        APPLY(0);
    if (j < columns)
        APPLY((int)(columns - j));
#undef APPLY
}

static void col_grad_apply(const void *x_, const void *dy_, const void *residual, void *dx_,
                           void *dresidual_, int64_t rows, int64_t columns, int64_t ld,
                           const affines_t *f, const act_t *act, int frozen, int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const V slope = v_set(plain_nan((T)act->slope));
    stream = stream && dx && rows_stream(dx, columns, ld);
    int64_t i = 0;
#define SOME(A, R, K)                                                                         \
    grad_rows(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, dx ? dx + i * ld : NULL,      \
              dres ? dres + i * ld : NULL, ld, columns, f->centre, f->a, f->b, f->k0, f->k1,  \
              frozen, slope, ahead_of(columns, ld), stream, A, R, K)
#define CALL(A, R)                                                                            \
    for (; !stream && i + GRAD_ROWS <= rows; i += GRAD_ROWS)                                  \
        SOME(A, R, GRAD_ROWS);                                                                \
    for (; i < rows; i++)                                                                     \
        SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
}
