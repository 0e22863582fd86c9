/* Batch normalisation where channels lie side by side (channels-last, (N, C)), and of tiles of short
 * maps, which are taken as columns too. Numbers of a column are arrays: sums are T, padded to whole
 * vectors, and are added to float64 where rows end.
 */

/* Add K rows to the sums of their columns. The sums are T, padded to whole vectors. */
INLINE void add_rows(const io_t *x, int64_t ld, int64_t columns, T *sum, const int K)
{
    for (int64_t j = 0; j < columns; j += W) {
        const int part = columns - j < W ? (int)(columns - j) : 0;
        V s = v_loadt(sum + j);
        UNROLL for (int k = 0; k < K; k++)
            s += part ? v_load_part(x + k * ld + j, part, 0) : v_load(x + k * ld + j);
        v_storet(sum + j, s);
    }
}

/* Add K rows to the sums and sums of squares about shift. */
INLINE void add_moments(const io_t *x, int64_t ld, int64_t columns, const T *shift, T *sum,
                        T *square, const int K)
{
    int64_t j = 0;
    for (; j + W <= columns; j += W) {
        const V c = v_loadt(shift + j);
        V s = v_loadt(sum + j), q = v_loadt(square + j);
        UNROLL for (int k = 0; k < K; k++) {
            const V d = v_load(x + k * ld + j) - c;
            s += d;
            q = v_fma(d, d, q);
        }
        v_storet(sum + j, s);
        v_storet(square + j, q);
    }
    if (j < columns) { /* the lanes beyond gather numbers that nobody reads */
        const V c = v_loadt(shift + j);
        V s = v_loadt(sum + j), q = v_loadt(square + j);
        UNROLL for (int k = 0; k < K; k++) {
            const V d = v_load_part(x + k * ld + j, (int)(columns - j), 0) - c;
            s += d;
            q = v_fma(d, d, q);
        }
        v_storet(sum + j, s);
        v_storet(square + j, q);
    }
}

/* Merge the moments of `rows` further rows into those of the `count` before. columns <= TILE. */
static void col_moments(const void *x_, int64_t rows, int64_t columns, int64_t ld, double count,
                        double *mean, double *m2)
{
    const io_t *x = x_;
    T shift[TILE + W], s[TILE + W], q[TILE + W];
    const int64_t sample = (rows + 7) / 8, padded = (columns + W - 1) / W * W;
    int64_t i = 0, j;
    for (j = 0; j < padded; j++)
        shift[j] = s[j] = q[j] = 0;
    for (; i + ROWS <= sample; i += ROWS)
        add_rows(x + i * ld, ld, columns, shift, ROWS);
    for (; i < sample; i++)
        add_rows(x + i * ld, ld, columns, shift, 1);
    for (j = 0; j < padded; j++)
        shift[j] *= (T)(1.0 / (double)sample);
    for (i = 0; i + ROWS <= rows; i += ROWS)
        add_moments(x + i * ld, ld, columns, shift, s, q, ROWS);
    for (; i < rows; i++)
        add_moments(x + i * ld, ld, columns, shift, s, q, 1);
    const double n = (double)rows, share = 1.0 / n, weight = n / (count + n);
    int safe = 1;
    for (j = 0; j < columns; j++)
        safe &= squares_are_safe(q[j]) | ((q[j] == 0) & (s[j] == 0));
    if (safe) {
        for (j = 0; j < columns; j++) {
            double d = (double)s[j] * share, delta = (double)shift[j] + d - mean[j];
            mean[j] += delta * weight;
            m2[j] += (double)q[j] - (double)s[j] * d + delta * delta * (count * weight);
        }
        return;
    }
    for (j = 0; j < columns; j++) {
        runs_t column = {rows, 1, ld};
        double before = count, block_mean, block_m2;
        careful_moments(x + j, &column, &block_mean, &block_m2);
        merge(&before, &mean[j], &m2[j], n, block_mean, block_m2);
    }
}

/* A run of T summed in float64 where the lanes meet. The array is padded with zeros. */
INLINE double sum_of(const T *p, int64_t n)
{
    V s0 = v_set(0), s1 = s0;
    int64_t j = 0;
    for (; j + 2 * W <= n; j += 2 * W) {
        s0 += v_loadt(p + j);
        s1 += v_loadt(p + j + W);
    }
    for (; j + W <= n; j += W)
        s0 += v_loadt(p + j);
    if (j < n)
        s1 += v_loadt_part(p + j, (int)(n - j));
    return v_sum(s0 + s1);
}

INLINE void fill(T *to, int64_t n, T value)
{
    for (int64_t j = 0; j < n; j++)
        to[j] = value;
}

/* Moments of `maps` channels, whose values lie `length` together. maps * length <= TILE. */
static void map_moments(const void *x_, int64_t rows, int64_t maps, int64_t length, int64_t ld,
                        double *mean, double *m2)
{
    T shift[TILE + W], s[TILE + W], q[TILE + W];
    const int64_t columns = maps * length, padded = (columns + W - 1) / W * W;
    double before = 0.0;
    for (int64_t first = 0; first < rows; first += MAP_ROWS) {
        const io_t *x = (const io_t *)x_ + first * ld;
        const int64_t count = rows - first < MAP_ROWS ? rows - first : MAP_ROWS;
        const int64_t sample = (count + 7) / 8;
        const double n = (double)(count * length);
        int64_t i = 0;
        fill(s, padded, 0);
        fill(q, padded, 0);
        for (; i < sample; i++)
            add_rows(x + i * ld, ld, columns, s, 1);
        for (int64_t k = 0; k < maps; k++)
            fill(shift + k * length, length,
                 (T)(sum_of(s + k * length, length) / (double)(sample * length)));
        fill(shift + columns, padded - columns, 0);
        fill(s, padded, 0);
        for (i = 0; i + ROWS <= count; i += ROWS)
            add_moments(x + i * ld, ld, columns, shift, s, q, ROWS);
        for (; i < count; i++)
            add_moments(x + i * ld, ld, columns, shift, s, q, 1);
        for (int64_t k = 0; k < maps; k++) {
            const double sk = sum_of(s + k * length, length), qk = sum_of(q + k * length, length);
            double total = before, block_mean = (double)shift[k * length] + sk / n;
            double block_m2 = qk - sk * (sk / n);
            if (!squares_are_safe((T)qk) && !(qk == 0 && sk == 0)) {
                const runs_t map = {count, length, ld};
                careful_moments(x + k * length, &map, &block_mean, &block_m2);
            }
            if (first == 0)
                mean[k] = m2[k] = 0.0;
            merge(&total, &mean[k], &m2[k], n, block_mean, block_m2);
        }
        before += n;
    }
}

static void map_spread(const affine_t *f, int64_t maps, int64_t length, const affines_t *to)
{
    for (int64_t k = 0; k < maps; k++) {
        const int64_t at = k * length;
        fill((T *)to->centre + at, length, (T)f[k].centre);
        fill((T *)to->a + at, length, (T)f[k].a);
        fill((T *)to->b + at, length, (T)f[k].b);
        if (to->k0) {
            fill((T *)to->k0 + at, length, (T)f[k].k0);
            fill((T *)to->k1 + at, length, (T)f[k].k1);
        }
    }
}

/* ---- normalise ---- */

/* One row: several at once would share the loads of the coefficients, but rows whose distance is a
 * multiple of 4096 bytes would then wait for one another's stores. */
INLINE void apply_row(const io_t *x, const io_t *residual, io_t *y, int64_t n, const T *c,
                      const T *a, const T *b, V slope, const int act, const int has_residual,
                      int stream)
{
    int64_t j = 0;
#define AT(j)                                                                                 \
    normal(v_load(x + (j)), v_loadt(c + (j)), v_loadt(a + (j)),                               \
           has_residual ? v_loadt(b + (j)) + v_load(residual + (j)) : v_loadt(b + (j)), slope, \
           act)
    for (; j + 4 * W <= n; j += 4 * W)
        UNROLL for (int v = 0; v < 4; v++)
            put(y + j + v * W, AT(j + v * W), stream);
    for (; j + W <= n; j += W)
        put(y + j, AT(j), stream);
#undef AT
    if (j < n) {
        const int part = (int)(n - j);
        const V bj = v_loadt_part(b + j, part);
        v_store_part(y + j,
                     normal(v_load_part(x + j, part, 0), v_loadt_part(c + j, part),
                            v_loadt_part(a + j, part),
                            has_residual ? bj + v_load_part(residual + j, part, 0) : bj, slope,
                            act),
                     part);
    }
}

/* Rows can be streamed where all of them begin on a vector's boundary and end on one. */
INLINE int rows_stream(const void *y, int64_t columns, int64_t ld)
{
    const size_t size = W * sizeof(io_t);
    return (uintptr_t)y % size == 0 && columns % W == 0 && ld % W == 0;
}

static void col_apply(const void *x_, const void *residual, void *y_, int64_t rows,
                      int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                      int stream)
{
    const io_t *x = x_, *res = residual;
    io_t *y = y_;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = v_set((T)act->slope);
    stream = stream && rows_stream(y, columns, ld);
#define CALL(A, R)                                                                            \
    for (int64_t i = 0; i < rows; i++)                                                        \
        apply_row(x + i * ld, R ? res + i * ld : NULL, y + i * ld, columns, c, a, b, slope, A, \
                  R, stream)
    DISPATCH(CALL)
#undef CALL
}

/* ---- gradients ---- */

INLINE void sums_of_rows(const io_t *x, const io_t *dy, const io_t *residual, int64_t ld,
                         int64_t n, const T *centre, const T *a_, const T *b_, V slope,
                         const int act, const int has_residual, T *sum_d, T *sum_dx, const int K)
{
    for (int64_t j = 0; j < n; j += W) {
        const int part = n - j < W ? (int)(n - j) : 0;
#define EITHER(q) (part ? v_load_part((q) + at, part, 0) : v_load((q) + at))
#define EITHERT(q) (part ? v_loadt_part((q) + j, part) : v_loadt((q) + j))
        const V c = EITHERT(centre), a = EITHERT(a_), b = EITHERT(b_);
        V s = v_loadt(sum_d + j), p = v_loadt(sum_dx + j);
        UNROLL for (int k = 0; k < K; k++) {
            const int64_t at = k * ld + j;
            const V xc = EITHER(x) - c;
            const V d = gradient(xc, EITHER(dy), a, has_residual ? b + EITHER(residual) : b,
                                 slope, act);
            s += d;
            p = v_fma(d, xc, p);
        }
        v_storet(sum_d + j, s);
        v_storet(sum_dx + j, p);
#undef EITHER
#undef EITHERT
    }
}

/* Add the sums of `rows` rows to sum_d and sum_dx. columns <= TILE. */
static void col_grad_sums(const void *x_, const void *dy_, const void *residual, int64_t rows,
                          int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                          double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = v_set((T)act->slope);
    T s[TILE + W], p[TILE + W];
    for (int64_t j = 0; j < (columns + W - 1) / W * W; j++)
        s[j] = p[j] = 0;
#define SOME(A, R, K)                                                                         \
    sums_of_rows(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, ld, columns, c, a, b, slope, \
                 A, R, s, p, K)
    int64_t i = 0;
#define CALL(A, R)                                                                            \
    for (; i + PAIRS <= rows; i += PAIRS)                                                     \
        SOME(A, R, PAIRS);                                                                    \
    for (; i < rows; i++)                                                                     \
        SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
    for (int64_t j = 0; j < columns; j++) {
        sum_d[j] += (double)s[j];
        sum_dx[j] += (double)p[j];
    }
}

INLINE void grad_row(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                     io_t *dresidual, int64_t n, const T *c, const T *a, const T *b, const T *k0,
                     const T *k1, V keep, V slope, const int act, const int has_residual,
                     int stream)
{
    int64_t j = 0;
    for (; j + W <= n; j += W) {
        const V xc = v_load(x + j) - v_loadt(c + j), aj = v_loadt(a + j), bj = v_loadt(b + j);
        const V d = gradient(xc, v_load(dy + j), aj,
                             has_residual ? bj + v_load(residual + j) : bj, slope, act);
        if (dresidual)
            v_store(dresidual + j, d);
        if (dx)
            put(dx + j, input_gradient(xc, d, aj, v_loadt(k0 + j), v_loadt(k1 + j), keep), stream);
    }
    if (j < n) {
        const int part = (int)(n - j);
        const V aj = v_loadt_part(a + j, part), bj = v_loadt_part(b + j, part);
        const V xc = v_load_part(x + j, part, 0) - v_loadt_part(c + j, part);
        const V d = gradient(xc, v_load_part(dy + j, part, 0), aj,
                             has_residual ? bj + v_load_part(residual + j, part, 0) : bj, slope,
                             act);
        if (dresidual)
            v_store_part(dresidual + j, d, part);
        if (dx)
            v_store_part(dx + j,
                         input_gradient(xc, d, aj, v_loadt_part(k0 + j, part),
                                        v_loadt_part(k1 + j, part), keep),
                         part);
    }
}

static void col_grad_apply(const void *x_, const void *dy_, const void *residual, void *dx_,
                           void *dresidual_, int64_t rows, int64_t columns, int64_t ld,
                           const affines_t *f, const act_t *act, int frozen, int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const V slope = v_set((T)act->slope), keep = v_all(!frozen);
    stream = stream && dx && rows_stream(dx, columns, ld);
#define CALL(A, R)                                                                            \
    for (int64_t i = 0; i < rows; i++)                                                        \
        grad_row(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, dx ? dx + i * ld : NULL,   \
                 dres ? dres + i * ld : NULL, columns, f->centre, f->a, f->b, f->k0, f->k1,   \
                 keep, slope, A, R, stream)
    DISPATCH(CALL)
#undef CALL
}
