/* Batch normalisation where channels lie side by side (channels-last, (N, C)), and of tiles of very
 * short maps, which are taken as columns too. Numbers of a column are arrays: sums are T, padded to
 * whole vectors, and are added to float64 every SUM_ROWS rows.
 */

/* Narrow rows are taken two at a time, and memory is asked for ahead; wide ones, which are pages
 * long, are better fetched by the machine itself, and share the loads and stores of their sums. */
enum { NARROW = 2, WIDE = 4 };

INLINE void ask_ahead(const io_t *x, int64_t ld, const int K)
{
    if (K == NARROW)
        UNROLL for (int k = 0; k < K; k++)
            PREFETCH(x + k * ld + 2048 / sizeof(io_t));
}

/* Add K rows to the sums of their columns. */
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
#define ADD(LOAD)                                                                             \
    do {                                                                                      \
        const V c = v_loadt(shift + j);                                                       \
        V s = v_loadt(sum + j), q = v_loadt(square + j);                                      \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            const V d = LOAD(x + k * ld + j) - c;                                             \
            s += d;                                                                           \
            q = v_fma(d, d, q);                                                               \
        }                                                                                     \
        v_storet(sum + j, s);                                                                 \
        v_storet(square + j, q);                                                              \
    } while (0)
#define LOAD_PART(p) v_load_part(p, (int)(columns - j), 0)
    while (j + LINE <= columns) {
        ask_ahead(x + j, ld, K);
        UNROLL for (int v = 0; v < LINE; v += W, j += W)
            ADD(v_load);
    }
    for (; j + W <= columns; j += W)
        ADD(v_load);
    if (j < columns) /* the lanes beyond gather numbers that nobody reads */
        ADD(LOAD_PART);
#undef ADD
#undef LOAD_PART
}

INLINE void add_to_doubles(double *to, const T *from, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        to[j] += (double)from[j];
}

INLINE void fill(T *to, int64_t n, T value)
{
    for (int64_t j = 0; j < n; j++)
        to[j] = value;
}

/* Mean and sum of squares of every column. columns <= TILE. */
static void col_moments(const void *x_, int64_t rows, int64_t columns, int64_t ld, double *mean,
                        double *m2)
{
    const io_t *x = x_;
    T shift[TILE + W], s[TILE + W], q[TILE + W];
    const int64_t sample = (rows + 7) / 8, padded = (columns + W - 1) / W * W;
    const double n = (double)rows, share = 1.0 / n;
    int64_t i = 0, j;
    int safe = 1;
    fill(shift, padded, 0);
    for (; i + WIDE <= sample; i += WIDE)
        add_rows(x + i * ld, ld, columns, shift, WIDE);
    for (; i < sample; i++)
        add_rows(x + i * ld, ld, columns, shift, 1);
    for (j = 0; j < padded; j++)
        shift[j] *= (T)(1.0 / (double)sample);
    for (j = 0; j < columns; j++)
        mean[j] = m2[j] = 0.0;
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const int64_t last = rows - first < SUM_ROWS ? rows : first + SUM_ROWS;
        fill(s, padded, 0);
        fill(q, padded, 0);
        i = first;
        for (; columns == TILE && i + WIDE <= last; i += WIDE)
            add_moments(x + i * ld, ld, columns, shift, s, q, WIDE);
        for (; i + NARROW <= last; i += NARROW)
            add_moments(x + i * ld, ld, columns, shift, s, q, NARROW);
        for (; i < last; i++)
            add_moments(x + i * ld, ld, columns, shift, s, q, 1);
        add_to_doubles(mean, s, columns);
        add_to_doubles(m2, q, columns);
    }
    for (j = 0; j < columns; j++) {
        const double sum = mean[j], square = m2[j];
        q[j] = (T)square;
        s[j] = sum == 0 && square == 0; /* all values are the shift */
        safe &= squares_are_safe(q[j]) | (s[j] != 0);
        mean[j] = (double)shift[j] + sum * share;
        m2[j] = square - sum * (sum * share);
    }
    for (j = 0; j < columns && !safe; j++) {
        const runs_t column = {rows, 1, ld};
        if (!squares_are_safe(q[j]) && s[j] == 0)
            careful_moments(x + j, &column, &mean[j], &m2[j]);
    }
}

/* Merge the moments of n further values of every column into those of the `count` before. */
static void col_merge(double count, double n, const double *part_mean, const double *part_m2,
                      int64_t columns, double *mean, double *m2)
{
    const double weight = n / (count + n), both = count * weight;
    for (int64_t j = 0; j < columns; j++) {
        const double delta = part_mean[j] - mean[j];
        mean[j] += delta * weight;
        m2[j] += part_m2[j] + delta * delta * both;
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

/* Moments of `maps` channels, whose values lie `length` together. maps * length <= TILE. */
static void map_moments(const void *x_, int64_t rows, int64_t maps, int64_t length, int64_t ld,
                        double *mean, double *m2)
{
    T shift[TILE + W], s[TILE + W], q[TILE + W];
    const int64_t columns = maps * length, padded = (columns + W - 1) / W * W;
    double before = 0.0;
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const io_t *x = (const io_t *)x_ + first * ld;
        const int64_t count = rows - first < SUM_ROWS ? rows - first : SUM_ROWS;
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
        for (i = 0; i + WIDE <= count; i += WIDE)
            add_moments(x + i * ld, ld, columns, shift, s, q, WIDE);
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

/* Add the sums of K rows: of d, and of d * (x - centre). */
INLINE void add_sums(const io_t *x, const io_t *dy, const io_t *residual, int64_t ld, int64_t n,
                     const T *centre, const T *a_, const T *b_, V slope, const int act,
                     const int has_residual, T *sum_d, T *sum_dx, const int K)
{
    int64_t j = 0;
#define ADD(LOAD, LOADT)                                                                      \
    do {                                                                                      \
        const V c = LOADT(centre + j), a = LOADT(a_ + j), b = LOADT(b_ + j);                  \
        V s = v_loadt(sum_d + j), p = v_loadt(sum_dx + j);                                    \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            const int64_t at = k * ld + j;                                                    \
            const V xc = LOAD(x + at) - c;                                                    \
            const V d = gradient(xc, LOAD(dy + at), a,                                        \
                                 has_residual ? b + LOAD(residual + at) : b, slope, act);     \
            s += d;                                                                           \
            p = v_fma(d, xc, p);                                                              \
        }                                                                                     \
        v_storet(sum_d + j, s);                                                               \
        v_storet(sum_dx + j, p);                                                              \
    } while (0)
#define LOAD_PART(p) v_load_part(p, (int)(n - j), 0)
#define LOADT_PART(p) v_loadt_part(p, (int)(n - j))
    while (j + LINE <= n) {
        ask_ahead(x + j, ld, K);
        ask_ahead(dy + j, ld, K);
        UNROLL for (int v = 0; v < LINE; v += W, j += W)
            ADD(v_load, v_loadt);
    }
    for (; j + W <= n; j += W)
        ADD(v_load, v_loadt);
    if (j < n)
        ADD(LOAD_PART, LOADT_PART);
#undef ADD
#undef LOAD_PART
#undef LOADT_PART
}

/* Add the sums of `rows` rows to sum_d and sum_dx. columns <= TILE. */
static void col_grad_sums(const void *x_, const void *dy_, const void *residual, int64_t rows,
                          int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                          double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = v_set((T)act->slope);
    const int64_t padded = (columns + W - 1) / W * W;
    T s[TILE + W], p[TILE + W];
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const int64_t last = rows - first < SUM_ROWS ? rows : first + SUM_ROWS;
        int64_t i = first;
        fill(s, padded, 0);
        fill(p, padded, 0);
#define SOME(A, R, K)                                                                         \
    add_sums(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, ld, columns, c, a, b, slope, A, \
             R, s, p, K)
#define CALL(A, R)                                                                            \
    for (; columns == TILE && i + WIDE <= last; i += WIDE)                                    \
        SOME(A, R, WIDE);                                                                     \
    for (; i + NARROW <= last; i += NARROW)                                                   \
        SOME(A, R, NARROW);                                                                   \
    for (; i < last; i++)                                                                     \
        SOME(A, R, 1)
        DISPATCH(CALL)
#undef CALL
#undef SOME
        add_to_doubles(sum_d, s, columns);
        add_to_doubles(sum_dx, p, columns);
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

/* ---- statistics and coefficients of columns ---- */

/* From the sums of squares about the mean: the variance, and 1 / sqrt(var + eps). */
static void col_invstd(int64_t n, double count, double eps, double *var, double *invstd)
{
    for (int64_t j = 0; j < n; j++) {
        var[j] /= count;
        invstd[j] = 1.0 / sqrt(var[j] + eps);
    }
}

/* running = (1 - momentum) * running + momentum * (scale * batch) */
static void col_move(int64_t n, double momentum, double scale, const double *batch, void *running_)
{
    T *running = running_;
    for (int64_t j = 0; j < n; j++)
        running[j] = (T)((1.0 - momentum) * (double)running[j] + momentum * (batch[j] * scale));
}

/* The statistics of inference: running ones, in float64. */
static void col_running(int64_t n, double eps, const void *running_mean, const void *running_var,
                        double *mean, double *invstd)
{
    const T *from = running_mean, *var = running_var;
    for (int64_t j = 0; j < n; j++)
        mean[j] = (double)from[j];
    for (int64_t j = 0; j < n; j++)
        invstd[j] = 1.0 / sqrt((double)var[j] + eps);
}

/* y = (x - mean) * invstd * weight + bias about the rounded mean; weight and bias may be NULL.
 * What does not change in a loop is asked before it, so that every loop is one of vectors. */
static void col_affine(int64_t n, const double *mean, const double *invstd, const void *weight_,
                       const void *bias_, const affines_t *f)
{
    const T *weight = weight_, *bias = bias_;
    T *centre = (T *)f->centre, *a = (T *)f->a, *b = (T *)f->b;
    for (int64_t j = 0; j < n; j++)
        centre[j] = (T)mean[j];
    if (weight)
        for (int64_t j = 0; j < n; j++)
            a[j] = (T)((double)weight[j] * invstd[j]);
    else
        for (int64_t j = 0; j < n; j++)
            a[j] = (T)invstd[j];
    /* what the rounding of the mean lost goes into b */
    if (bias)
        for (int64_t j = 0; j < n; j++)
            b[j] = (T)((double)bias[j] + ((double)centre[j] - mean[j]) * (double)a[j]);
    else
        for (int64_t j = 0; j < n; j++)
            b[j] = (T)(((double)centre[j] - mean[j]) * (double)a[j]);
}

/* The terms of dx = a * (d - mean(d) - xhat * mean(d * xhat)), with the sums of d and of
 * d * (x - centre), and the gradients of weight and bias where they are not NULL. */
static void col_terms(int64_t n, double count, const double *mean, const double *invstd,
                      const double *sum_d, double *sum_dx, const affines_t *f, void *dweight_,
                      void *dbias_, int frozen)
{
    T *dweight = dweight_, *dbias = dbias_;
    const T *centre = f->centre, *a = f->a;
    T *k0 = (T *)f->k0, *k1 = (T *)f->k1;
    const double share = 1.0 / count;
    for (int64_t j = 0; j < n; j++)
        sum_dx[j] += ((double)centre[j] - mean[j]) * sum_d[j];
    if (dweight)
        for (int64_t j = 0; j < n; j++)
            dweight[j] = (T)(sum_dx[j] * invstd[j]);
    if (dbias)
        for (int64_t j = 0; j < n; j++)
            dbias[j] = (T)sum_d[j];
    if (frozen) {
        fill(k0, n, 0);
        fill(k1, n, 0);
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        const double aj = (double)a[j], slope = -aj * invstd[j] * invstd[j] * (sum_dx[j] * share);
        k1[j] = (T)slope;
        k0[j] = (T)(slope * ((double)centre[j] - mean[j]) - aj * (sum_d[j] * share));
    }
}
