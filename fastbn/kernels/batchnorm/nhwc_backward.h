/* NHWC, backward of nhwc_forward.h: sums of d and d * (x - centre), then dx. */

/* Add what stands at `at`, a unit or `part` of one, to the sums of d and d * (x - centre). */
INLINE void add_gradient(const io_t *x, const io_t *dy, const io_t *residual, int64_t at, int part,
                         unit_t c, unit_t a, unit_t b, V slope, unit_t *s, unit_t *q, const int act,
                         const int has_residual)
{
    const unit_t v = u_load(x + at, part), g = u_load(dy + at, part);
    unit_t r;
    if (has_residual)
        r = u_load(residual + at, part);
    EACH_PART(p) {
        const V xc = v.p[p] - c.p[p];
        const V d =
            gradient(xc, g.p[p], a.p[p], has_residual ? b.p[p] + r.p[p] : b.p[p], slope, act);
        s->p[p] += d;
        q->p[p] = v_fma(d, xc, q->p[p]);
    }
}

/* Columns whose sums and coefficients have room in registers together. */
enum { SUM_UNITS = (VBYTES == 64 ? 4 : 2) / PARTS };

/* How far ahead is prefetched: a page. */
enum { COLUMNS_AHEAD = PAGE_BYTES / sizeof(io_t) };

INLINE void prefetch_ahead(const io_t *x, const io_t *dy, const io_t *residual, int64_t at)
{
    PREFETCH_NEAR(x + at);
    PREFETCH_NEAR(dy + at);
    if (residual)
        PREFETCH_NEAR(residual + at);
}

/* Sums of a few columns of `rows` rows: of `units` whole units, or a part of one. */
INLINE void sum_columns(const io_t *x, const io_t *dy, const io_t *residual, int64_t rows,
                        int64_t ld, int prefetch, int part, const T *c_, const T *a_, const T *b_,
                        V slope, T *sum_d, T *sum_dx, const int act, const int has_residual,
                        const int units)
{
    unit_t c[SUM_UNITS], a[SUM_UNITS], b[SUM_UNITS], s[SUM_UNITS], q[SUM_UNITS];
    UNROLL_FOR(int u = 0; u < units; u++) {
        c[u] = u_loadt(c_ + u * U);
        a[u] = u_loadt(a_ + u * U);
        b[u] = u_loadt(b_ + u * U);
        s[u] = q[u] = u_set(0);
    }
    for (int64_t i = 0; i < rows; i++)
        UNROLL_FOR(int u = 0; u < units; u++) {
            const int64_t at = i * ld + u * U;
            if (prefetch)
                prefetch_ahead(x, dy, residual, at + COLUMNS_AHEAD);
            add_gradient(x, dy, residual, at, part, c[u], a[u], b[u], slope, &s[u], &q[u], act,
                         has_residual);
        }
    UNROLL_FOR(int u = 0; u < units; u++) {
        u_storet(sum_d + u * U, s[u]);
        u_storet(sum_dx + u * U, q[u]);
    }
}

/* The sums of `rows` rows, a few columns at a time. */
static void sums_down(const io_t *x, const io_t *dy, const io_t *residual, int64_t rows,
                      int64_t columns, int64_t ld, int prefetch, const affines_t *f,
                      const act_t *act, T *s, T *q)
{
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = set_of(act->slope);
    int64_t j = 0;
#define SOME(A, R, units, part)                                                                    \
    sum_columns(x + j, dy + j, R ? residual + j : NULL, rows, ld, prefetch, part, c + j, a + j,    \
                b + j, slope, s + j, q + j, A, R, units)
#define CALL(A, R)                                                                                 \
    for (; j + SUM_UNITS * U <= columns; j += SUM_UNITS * U)                                       \
        SOME(A, R, SUM_UNITS, 0);                                                                  \
    for (; j < columns; j += U)                                                                    \
    SOME(A, R, 1, part_of(columns - j))
    DISPATCH(CALL)
#undef CALL
#undef SOME
}

/* Add rows, one after the other, to the sums of all columns. */
INLINE void sum_rows(const io_t *x, const io_t *dy, const io_t *residual, int64_t rows,
                     int64_t columns, int64_t ld, const T *c_, const T *a_, const T *b_, V slope,
                     T *sum_d, T *sum_dx, const int act, const int has_residual)
{
    const int64_t ahead = ld > TILE ? ld : COLUMNS_AHEAD; /* of pieces of rows, the next row's */
#define ADD(part)                                                                                  \
    do {                                                                                           \
        const unit_t c = u_loadt(c_ + j), a = u_loadt(a_ + j), b = u_loadt(b_ + j);                \
        unit_t s = u_loadt(sum_d + j), q = u_loadt(sum_dx + j);                                    \
        const int64_t at = i * ld + j;                                                             \
        prefetch_ahead(x, dy, residual, at + ahead);                                               \
        add_gradient(x, dy, residual, at, part, c, a, b, slope, &s, &q, act, has_residual);        \
        u_storet(sum_d + j, s);                                                                    \
        u_storet(sum_dx + j, q);                                                                   \
    } while (0)
    for (int64_t i = 0; i < rows; i++) {
        int64_t j = 0;
        for (; j + U <= columns; j += U)
            ADD(0);
        if (j < columns)
            ADD((int)(columns - j));
    }
#undef ADD
}

static void sums_across(const io_t *x, const io_t *dy, const io_t *residual, int64_t rows,
                        int64_t columns, int64_t ld, const affines_t *f, const act_t *act, T *s,
                        T *q)
{
    const V slope = set_of(act->slope);
    fill(s, whole_units(columns), 0);
    fill(q, whole_units(columns), 0);
#define CALL(A, R)                                                                                 \
    sum_rows(x, dy, R ? residual : NULL, rows, columns, ld, f->centre, f->a, f->b, slope, s, q, A, \
             R)
    DISPATCH(CALL)
#undef CALL
}

/* The first line of room from which on sums may be stored, and `read` be read at the same columns,
 * without any load's waiting for a store just before (see APART). */
INLINE T *clear_of(T *room, const void *const *read, int n)
{
    for (T *p = room; p < room + PAGE_BYTES / sizeof(T); p += LINE_BYTES / sizeof(T)) {
        int clear = 1;
        for (int k = 0; k < n; k++)
            clear &= (((uintptr_t)p - (uintptr_t)read[k]) & (PAGE_BYTES - 1)) >= PAGE_BYTES / 8;
        if (clear)
            return p;
    }
    return room;
}

/* Add the sums of `rows` rows to sum_d and sum_dx. columns <= TILE.
 *
 * What caches hold is read down the rows, while registers keep all that belongs to a column. With
 * `prefetch`, it comes from memory, which is read as it lies: a processor sees no further than the
 * few lines whose sums it has begun. */
static void nhwc_sums(const void *x_, const void *dy_, const void *residual, int64_t rows,
                      int64_t columns, int64_t ld, int prefetch, const affines_t *f,
                      const act_t *act, double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const int across = prefetch && ld > SUM_UNITS * U;
    ON_LINE T room[2][APART + PAGE_BYTES / sizeof(T)];
    const void *read[4] = {f->centre, f->a, f->b};
    T *const s = clear_of(room[0], read, 3);
    read[3] = s;
    T *const q = clear_of(room[1], read, 4);
    for (int64_t n; rows > 0; rows -= n, x += n * ld, dy += n * ld, res += res ? n * ld : 0) {
        n = rows < SUM_ROWS ? rows : SUM_ROWS;
        if (across)
            sums_across(x, dy, res, n, columns, ld, f, act, s, q);
        else
            sums_down(x, dy, res, n, columns, ld, prefetch, f, act, s, q);
        add_to_doubles(sum_d, s, columns);
        add_to_doubles(sum_dx, q, columns);
    }
}

INLINE void grad_rows(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                      io_t *dresidual, int64_t far, int64_t columns, const T *c_, const T *a_,
                      const T *b_, const T *k0_, const T *k1_, int frozen, V slope, int prefetch,
                      int stream, int stream_d, const int act, const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(units, part)                                                                         \
    do {                                                                                           \
        M dx_[ROWS][LINE_UNITS] = {0}, d_[ROWS][LINE_UNITS] = {0};                                 \
        UNROLL_FOR(int u = 0; u < units; u++) {                                                    \
            const int64_t at = j + u * U;                                                          \
            const unit_t c = u_loadt(c_ + at), a = u_loadt(a_ + at), b = u_loadt(b_ + at);         \
            const unit_t k0 = u_loadt(k0_ + at), k1 = u_loadt(k1_ + at);                           \
            UNROLL_FOR(int k = 0; k < K; k++) {                                                    \
                const int64_t here = k * far + at;                                                 \
                if (prefetch)                                                                      \
                    prefetch_ahead(x, dy, residual, here + COLUMNS_AHEAD);                         \
                unit_t v = u_load(x + here, part), d = u_load(dy + here, part), r;                 \
                if (has_residual)                                                                  \
                    r = u_load(residual + here, part);                                             \
                EACH_PART(p) {                                                                     \
                    const V xc = v.p[p] - c.p[p];                                                  \
                    d.p[p] = gradient(xc, d.p[p], a.p[p], has_residual ? b.p[p] + r.p[p] : b.p[p], \
                                      slope, act);                                                 \
                    v.p[p] = input_gradient(xc, d.p[p], a.p[p], k0.p[p], k1.p[p], frozen);         \
                }                                                                                  \
                if (dresidual)                                                                     \
                    d_[k][u] = pack(d);                                                            \
                if (dx)                                                                            \
                    dx_[k][u] = pack(v);                                                           \
            }                                                                                      \
        }                                                                                          \
        UNROLL_FOR(int k = 0; k < K; k++)                                                          \
            UNROLL_FOR(int u = 0; u < units; u++) {                                                \
                if (dresidual)                                                                     \
                    put(dresidual + k * far + j + u * U, d_[k][u], part, stream_d);                \
                if (dx)                                                                            \
                    put(dx + k * far + j + u * U, dx_[k][u], part, stream);                        \
            }                                                                                      \
    } while (0)
    for (; j + LINE <= columns; j += LINE)
        APPLY(LINE_UNITS, 0);
    for (; j + U <= columns; j += U)
        APPLY(1, 0);
    if (j < columns)
        APPLY(1, (int)(columns - j));
#undef APPLY
}

/* With `prefetch`, rows come from memory, one after the other; but those whose coefficients fill
 * the first cache share them by two. */
static void nhwc_backward(const void *x_, const void *dy_, const void *residual, void *dx_,
                          void *dresidual_, int64_t rows, int64_t columns, int64_t ld,
                          const affines_t *f, const act_t *act, int frozen, int prefetch,
                          int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const V slope = set_of(act->slope);
    const int stream_d = stream && dres && rows_stream(dres, columns, ld);
    stream = stream && dx && rows_stream(dx, columns, ld);
    const int64_t steps = prefetch && columns <= TILE ? 0 : rows / ROWS;
    int64_t i = 0;
#define SOME(A, R, K)                                                                              \
    grad_rows(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, dx ? dx + i * ld : NULL,           \
              dres ? dres + i * ld : NULL, steps * ld, columns, f->centre, f->a, f->b, f->k0,      \
              f->k1, frozen, slope, prefetch, stream, stream_d, A, R, K)
#define CALL(A, R)                                                                                 \
    for (; i < steps; i++)                                                                         \
        SOME(A, R, ROWS);                                                                          \
    for (i = steps * ROWS; i < rows; i++)                                                          \
    SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
}
