/* Batch normalisation where channels lie side by side (channels-last, (N, C)), and of tiles of very
 * short maps, which are taken as columns too. Numbers of a column are arrays: sums are T, padded to
 * whole vectors, and are added to float64 every SUM_ROWS rows.
 */

/* Rows are taken STREAMS at a time, `far` apart: all rows are cut into so many parts, and memory is
 * read in several places at once, which it answers faster than one after the other. What belongs to
 * a column, sums or coefficients, is loaded once for all of them. Rows left over come by one. */
enum { STREAMS = 4, SUM_STEPS = SUM_ROWS / STREAMS };

#define LOAD_PART(p) v_load_part(p, (int)(columns - j), 0)
#define LOADT_PART(p) v_loadt_part(p, (int)(columns - j))
#define STORE_PART(p, v) v_store_part(p, v, (int)(columns - j))
#define PUT(p, v) put(p, v, stream)

/* Add K rows, `far` values apart, to the sums of their columns. */
INLINE void add_rows(const io_t *x, int64_t far, int64_t columns, T *sum, const int K)
{
    for (int64_t j = 0; j < columns; j += W) {
        const int part = columns - j < W ? (int)(columns - j) : 0;
        V s = v_loadt(sum + j);
        UNROLL for (int k = 0; k < K; k++)
            s += part ? v_load_part(x + k * far + j, part, 0) : v_load(x + k * far + j);
        v_storet(sum + j, s);
    }
}

/* Add K rows, `far` values apart, to the sums and sums of squares about shift. */
INLINE void add_moments(const io_t *x, int64_t far, int64_t columns, const T *shift, T *sum,
                        T *square, const int K)
{
    int64_t j = 0;
#define ADD(LOAD)                                                                             \
    do {                                                                                      \
        const V c = v_loadt(shift + j);                                                       \
        V s = v_loadt(sum + j), q = v_loadt(square + j);                                      \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            const V d = LOAD(x + k * far + j) - c;                                            \
            s += d;                                                                           \
            q = v_fma(d, d, q);                                                               \
        }                                                                                     \
        v_storet(sum + j, s);                                                                 \
        v_storet(square + j, q);                                                              \
    } while (0)
    for (; j + W <= columns; j += W)
        ADD(v_load);
    if (j < columns)
        ADD(LOAD_PART);
#undef ADD
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

/* The mean of an eighth of the rows, or of one. */
INLINE void sample(const io_t *x, int64_t ld, int64_t rows, int64_t columns, T *shift)
{
    const int64_t steps = rows / STREAMS, some = (steps + 7) / 8;
    const T share = (T)1 / (T)(steps ? STREAMS * some : 1);
    fill(shift, (columns + W - 1) / W * W, 0);
    for (int64_t i = 0; i < some; i++)
        add_rows(x + i * ld, steps * ld, columns, shift, STREAMS);
    if (steps == 0)
        add_rows(x, 0, columns, shift, 1);
    for (int64_t j = 0; j < columns; j++)
        shift[j] *= share;
}

/* Mean and sum of squares of every column. columns <= TILE. */
static void col_moments(const void *x_, int64_t rows, int64_t columns, int64_t ld, double *mean,
                        double *m2)
{
    const io_t *x = x_;
    T shift[TILE + W], s[TILE + W], q[TILE + W];
    const int64_t steps = rows / STREAMS, far = steps * ld, padded = (columns + W - 1) / W * W;
    const double n = (double)rows, share = 1.0 / n;
    int64_t i = 0, j;
    int safe = 1;
    sample(x, ld, rows, columns, shift);
    for (j = 0; j < columns; j++)
        mean[j] = m2[j] = 0.0;
    do {
        const int64_t last = steps - i < SUM_STEPS ? steps : i + SUM_STEPS;
        fill(s, padded, 0);
        fill(q, padded, 0);
        for (; i < last; i++)
            add_moments(x + i * ld, far, columns, shift, s, q, STREAMS);
        for (int64_t row = STREAMS * steps; i == steps && row < rows; row++)
            add_moments(x + row * ld, 0, columns, shift, s, q, 1);
        add_to_doubles(mean, s, columns);
        add_to_doubles(m2, q, columns);
    } while (i < steps);
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
        const int64_t steps = count / STREAMS;
        const double n = (double)(count * length);
        sample(x, ld, count, columns, s);
        for (int64_t k = 0; k < maps; k++)
            fill(shift + k * length, length,
                 (T)(sum_of(s + k * length, length) / (double)length));
        fill(shift + columns, padded - columns, 0);
        fill(s, padded, 0);
        fill(q, padded, 0);
        for (int64_t i = 0; i < steps; i++)
            add_moments(x + i * ld, steps * ld, columns, shift, s, q, STREAMS);
        for (int64_t row = STREAMS * steps; row < count; row++)
            add_moments(x + row * ld, 0, columns, shift, s, q, 1);
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

/* All rows are loaded before the first is stored: a load waits for a store before it whose address
 * differs by a multiple of 4096, as that of rows often does. Whole cache lines are stored together:
 * those that bypass the cache must be. As many rows as there are registers for. */
enum {
    LINE_VECTORS = LINE / W ? LINE / W : 1,
    ROWS = 8 / LINE_VECTORS < STREAMS ? 8 / LINE_VECTORS : STREAMS,
    GRAD_ROWS = ROWS < 2 ? ROWS : 2
};

INLINE void apply_rows(const io_t *x, const io_t *residual, io_t *y, int64_t far, int64_t columns,
                       const T *c_, const T *a_, const T *b_, V slope, int stream, const int act,
                       const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(LOAD, LOADT, PUT, N)                                                            \
    do {                                                                                      \
        V z[ROWS][LINE_VECTORS];                                                              \
        UNROLL for (int v = 0; v < N; v++) {                                                  \
            const V c = LOADT(c_ + j + v * W), a = LOADT(a_ + j + v * W);                     \
            const V b = LOADT(b_ + j + v * W);                                                \
            UNROLL for (int k = 0; k < K; k++)                                                \
                z[k][v] = normal(LOAD(x + k * far + j + v * W), c, a,                         \
                                 has_residual ? b + LOAD(residual + k * far + j + v * W) : b, \
                                 slope, act);                                                 \
        }                                                                                     \
        UNROLL for (int k = 0; k < K; k++)                                                    \
            UNROLL for (int v = 0; v < N; v++)                                                \
                PUT(y + k * far + j + v * W, z[k][v]);                                        \
    } while (0)
    for (; j + LINE <= columns; j += LINE)
        APPLY(v_load, v_loadt, PUT, LINE_VECTORS);
    for (; j + W <= columns; j += W)
        APPLY(v_load, v_loadt, PUT, 1);
    if (j < columns)
        APPLY(LOAD_PART, LOADT_PART, STORE_PART, 1);
#undef APPLY
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
    const int64_t steps = rows / ROWS;
    int64_t i = 0;
#define SOME(A, R, K)                                                                         \
    apply_rows(x + i * ld, R ? res + i * ld : NULL, y + i * ld, steps * ld, columns, c, a, b, \
               slope, stream, A, R, K)
#define CALL(A, R)                                                                            \
    for (; i < steps; i++)                                                                    \
        SOME(A, R, ROWS);                                                                     \
    for (i = steps * ROWS; i < rows; i++)                                                     \
        SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
}

/* ---- gradients ---- */

/* Add K rows to the sums of d, and of d * (x - centre). */
INLINE void add_sums(const io_t *x, const io_t *dy, const io_t *residual, int64_t far,
                     int64_t columns, const T *c_, const T *a_, const T *b_, V slope, T *sum_d,
                     T *sum_dx, const int act, const int has_residual, const int K)
{
    int64_t j = 0;
#define ADD(LOAD, LOADT)                                                                      \
    do {                                                                                      \
        const V c = LOADT(c_ + j), a = LOADT(a_ + j), b = LOADT(b_ + j);                      \
        V s = v_loadt(sum_d + j), p = v_loadt(sum_dx + j);                                    \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            const V xc = LOAD(x + k * far + j) - c;                                           \
            const V d = gradient(xc, LOAD(dy + k * far + j), a,                               \
                                 has_residual ? b + LOAD(residual + k * far + j) : b, slope,  \
                                 act);                                                        \
            s += d;                                                                           \
            p = v_fma(d, xc, p);                                                              \
        }                                                                                     \
        v_storet(sum_d + j, s);                                                               \
        v_storet(sum_dx + j, p);                                                              \
    } while (0)
    for (; j + W <= columns; j += W)
        ADD(v_load, v_loadt);
    if (j < columns)
        ADD(LOAD_PART, LOADT_PART);
#undef ADD
}

/* Add the sums of `rows` rows to sum_d and sum_dx. columns <= TILE. */
static void col_grad_sums(const void *x_, const void *dy_, const void *residual, int64_t rows,
                          int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                          double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = v_set((T)act->slope);
    const int64_t steps = rows / STREAMS, padded = (columns + W - 1) / W * W;
    int64_t i = 0;
    T s[TILE + W], p[TILE + W];
    do {
        const int64_t last = steps - i < SUM_STEPS ? steps : i + SUM_STEPS;
        fill(s, padded, 0);
        fill(p, padded, 0);
#define SOME(A, R, K)                                                                         \
    add_sums(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, steps * ld, columns, c, a, b,  \
             slope, s, p, A, R, K)
#define CALL(A, R)                                                                            \
    for (; i < last; i++)                                                                     \
        SOME(A, R, STREAMS);                                                                  \
    if (i == steps)                                                                           \
        for (i = STREAMS * steps; i < rows; i++)                                              \
            SOME(A, R, 1)
        DISPATCH(CALL)
#undef CALL
#undef SOME
        add_to_doubles(sum_d, s, columns);
        add_to_doubles(sum_dx, p, columns);
    } while (i < steps);
}

INLINE void grad_rows(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                      io_t *dresidual, int64_t far, int64_t columns, const T *c_, const T *a_,
                      const T *b_, const T *k0_, const T *k1_, V keep, V slope, int stream,
                      const int act, const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(LOAD, LOADT, PUT, STORE, N)                                                     \
    do {                                                                                      \
        V g[GRAD_ROWS][LINE_VECTORS], d[GRAD_ROWS][LINE_VECTORS];                             \
        UNROLL for (int v = 0; v < N; v++) {                                                  \
            const int64_t at = j + v * W;                                                     \
            const V c = LOADT(c_ + at), a = LOADT(a_ + at), b = LOADT(b_ + at);               \
            const V k0 = LOADT(k0_ + at), k1 = LOADT(k1_ + at);                               \
            UNROLL for (int k = 0; k < K; k++) {                                              \
                const V xc = LOAD(x + k * far + at) - c;                                      \
                d[k][v] = gradient(xc, LOAD(dy + k * far + at), a,                            \
                                   has_residual ? b + LOAD(residual + k * far + at) : b,      \
                                   slope, act);                                               \
                g[k][v] = input_gradient(xc, d[k][v], a, k0, k1, keep);                       \
            }                                                                                 \
        }                                                                                     \
        UNROLL for (int k = 0; k < K; k++)                                                    \
            UNROLL for (int v = 0; v < N; v++) {                                              \
                if (dresidual)                                                                \
                    STORE(dresidual + k * far + j + v * W, d[k][v]);                          \
                if (dx)                                                                       \
                    PUT(dx + k * far + j + v * W, g[k][v]);                                   \
            }                                                                                 \
    } while (0)
    for (; j + LINE <= columns; j += LINE)
        APPLY(v_load, v_loadt, PUT, v_store, LINE_VECTORS);
    for (; j + W <= columns; j += W)
        APPLY(v_load, v_loadt, PUT, v_store, 1);
    if (j < columns)
        APPLY(LOAD_PART, LOADT_PART, STORE_PART, STORE_PART, 1);
#undef APPLY
}
#undef LOAD_PART
#undef LOADT_PART
#undef STORE_PART
#undef PUT

static void col_grad_apply(const void *x_, const void *dy_, const void *residual, void *dx_,
                           void *dresidual_, int64_t rows, int64_t columns, int64_t ld,
                           const affines_t *f, const act_t *act, int frozen, int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const V slope = v_set((T)act->slope), keep = v_all(!frozen);
    stream = stream && dx && rows_stream(dx, columns, ld);
    const int64_t steps = rows / GRAD_ROWS;
    int64_t i = 0;
#define SOME(A, R, K)                                                                         \
    grad_rows(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, dx ? dx + i * ld : NULL,      \
              dres ? dres + i * ld : NULL, steps * ld, columns, f->centre, f->a, f->b, f->k0, \
              f->k1, keep, slope, stream, A, R, K)
#define CALL(A, R)                                                                            \
    for (; i < steps; i++)                                                                    \
        SOME(A, R, GRAD_ROWS);                                                                \
    for (i = steps * GRAD_ROWS; i < rows; i++)                                                \
        SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
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
