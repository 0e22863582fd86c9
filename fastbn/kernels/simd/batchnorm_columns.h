/* Batch normalisation where channels lie side by side (channels-last, (N, C)), and of tiles of very
 * short maps, which are taken as columns too. Numbers of a column are arrays: sums are T, padded to
 * whole vectors, and are added to float64 every SUM_ROWS rows.
 */

/* Sums stay in registers over BLOCK_ROWS rows of a strip of columns, as many as there are registers
 * for. The machine fetches wide rows ahead by itself; narrow ones are asked for. */
enum { BLOCK_ROWS = 8, STRIP = 4 * W, SUM_STRIP = 2 * W, NARROW = 1024 / sizeof(io_t) };

/* Add rows to the sums of their columns. */
INLINE void add_rows(const io_t *x, int64_t ld, int64_t rows, int64_t columns, T *sum)
{
    for (int64_t j = 0; j < columns; j += W) {
        const int part = columns - j < W ? (int)(columns - j) : 0;
        V s = v_loadt(sum + j);
        for (int64_t i = 0; i < rows; i++)
            s += part ? v_load_part(x + i * ld + j, part, 0) : v_load(x + i * ld + j);
        v_storet(sum + j, s);
    }
}

/* Add rows of a strip of `width` columns to its sums and sums of squares about shift; with `part`,
 * of that many columns, and the lanes beyond gather numbers that nobody reads. */
INLINE void strip_moments(const io_t *x, int64_t ld, int64_t rows, const T *shift, T *sum,
                          T *square, int part, const int width)
{
    V c[STRIP / W], s[STRIP / W], q[STRIP / W];
    UNROLL for (int v = 0; v < width / W; v++) {
        c[v] = v_loadt(shift + v * W);
        s[v] = v_loadt(sum + v * W);
        q[v] = v_loadt(square + v * W);
    }
    for (int64_t i = 0; i < rows; i++, x += ld)
        UNROLL for (int v = 0; v < width / W; v++) {
            const V d = (part ? v_load_part(x, part, 0) : v_load(x + v * W)) - c[v];
            s[v] += d;
            q[v] = v_fma(d, d, q[v]);
        }
    UNROLL for (int v = 0; v < width / W; v++) {
        v_storet(sum + v * W, s[v]);
        v_storet(square + v * W, q[v]);
    }
}

static void add_moments(const io_t *x, int64_t ld, int64_t rows, int64_t columns, const T *shift,
                        T *sum, T *square)
{
    for (int64_t i = 0; i < rows; i += BLOCK_ROWS, x += BLOCK_ROWS * ld) {
        const int64_t some = rows - i < BLOCK_ROWS ? rows - i : BLOCK_ROWS;
        int64_t j = 0;
        for (; j + STRIP <= columns; j += STRIP)
            strip_moments(x + j, ld, some, shift + j, sum + j, square + j, 0, STRIP);
        for (; j + W <= columns; j += W)
            strip_moments(x + j, ld, some, shift + j, sum + j, square + j, 0, W);
        if (j < columns)
            strip_moments(x + j, ld, some, shift + j, sum + j, square + j, (int)(columns - j), W);
    }
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
    int64_t j;
    int safe = 1;
    fill(shift, padded, 0);
    for (int64_t i = 0; i < sample; i += BLOCK_ROWS)
        add_rows(x + i * ld, ld, sample - i < BLOCK_ROWS ? sample - i : BLOCK_ROWS, columns, shift);
    for (j = 0; j < padded; j++)
        shift[j] *= (T)(1.0 / (double)sample);
    for (j = 0; j < columns; j++)
        mean[j] = m2[j] = 0.0;
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const int64_t last = rows - first < SUM_ROWS ? rows : first + SUM_ROWS;
        fill(s, padded, 0);
        fill(q, padded, 0);
        add_moments(x + first * ld, ld, last - first, columns, shift, s, q);
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
        fill(s, padded, 0);
        fill(q, padded, 0);
        add_rows(x, ld, sample, columns, s);
        for (int64_t k = 0; k < maps; k++)
            fill(shift + k * length, length,
                 (T)(sum_of(s + k * length, length) / (double)(sample * length)));
        fill(shift + columns, padded - columns, 0);
        fill(s, padded, 0);
        add_moments(x, ld, count, columns, shift, s, q);
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

#define LOAD_PART(p) v_load_part(p, (int)(columns - j), 0)
#define LOADT_PART(p) v_loadt_part(p, (int)(columns - j))
#define STORE_PART(p, v) v_store_part(p, v, (int)(columns - j))
#define PUT(p, v) put(p, v, stream)

/* Coefficients are shared by ROWS rows (GRAD_ROWS, as a set of the first cache has room for eight
 * lines that are a page apart). All of them are loaded before the first is stored: a load waits for
 * a store before it whose address differs by a multiple of 4096, as that of rows often does. What
 * bypasses the cache is written row by row, and memory is asked for ahead. */
enum { ROWS = 4, GRAD_ROWS = 2 };

INLINE void apply_rows(const io_t *x, const io_t *residual, io_t *y, int64_t ld, int64_t columns,
                       const T *c_, const T *a_, const T *b_, V slope, int64_t ahead,
                       int stream, const int act, const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(LOAD, LOADT, PUT)                                                               \
    do {                                                                                      \
        const V c = LOADT(c_ + j), a = LOADT(a_ + j), b = LOADT(b_ + j);                      \
        V z[ROWS];                                                                            \
        UNROLL for (int k = 0; k < K; k++)                                                    \
            z[k] = normal(LOAD(x + k * ld + j), c, a,                                         \
                          has_residual ? b + LOAD(residual + k * ld + j) : b, slope, act);    \
        UNROLL for (int k = 0; k < K; k++)                                                    \
            PUT(y + k * ld + j, z[k]);                                                        \
    } while (0)
    while (j + LINE <= columns) {
        if (K == 1) {
            PREFETCH(x + j + ahead);
            if (has_residual)
                PREFETCH(residual + j + ahead);
        }
        UNROLL for (int v = 0; v < LINE; v += W, j += W)
            APPLY(v_load, v_loadt, PUT);
    }
    for (; j + W <= columns; j += W)
        APPLY(v_load, v_loadt, PUT);
    if (j < columns)
        APPLY(LOAD_PART, LOADT_PART, STORE_PART);
#undef APPLY
}

/* What is asked for while a row is written: the next tile, or a little further on in the row. */
INLINE int64_t ahead_of(int64_t columns, int64_t ld)
{
    return columns < ld ? columns : 1024 / (int64_t)sizeof(io_t);
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
    int64_t i = 0;
#define SOME(A, R, K)                                                                         \
    apply_rows(x + i * ld, R ? res + i * ld : NULL, y + i * ld, ld, columns, c, a, b, slope,  \
               ahead_of(columns, ld), stream, A, R, K)
#define CALL(A, R)                                                                            \
    for (; !stream && i + ROWS <= rows; i += ROWS)                                            \
        SOME(A, R, ROWS);                                                                     \
    for (; i < rows; i++)                                                                     \
        SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
}

/* ---- gradients ---- */

/* Add rows of a strip to its sums: of d, and of d * (x - centre); see strip_moments. */
INLINE void strip_sums(const io_t *x, const io_t *dy, const io_t *residual, int64_t ld,
                       int64_t rows, const T *centre, const T *a_, const T *b_, V slope, T *sum_d,
                       T *sum_dx, int part, const int act, const int has_residual,
                       const int width)
{
    V c[SUM_STRIP / W], a[SUM_STRIP / W], b[SUM_STRIP / W], s[SUM_STRIP / W], p[SUM_STRIP / W];
    UNROLL for (int v = 0; v < width / W; v++) {
        c[v] = v_loadt(centre + v * W);
        a[v] = v_loadt(a_ + v * W);
        b[v] = v_loadt(b_ + v * W);
        s[v] = v_loadt(sum_d + v * W);
        p[v] = v_loadt(sum_dx + v * W);
    }
#define LOAD(from) (part ? v_load_part((from) + i * ld, part, 0) : v_load((from) + i * ld + v * W))
    for (int64_t i = 0; i < rows; i++) {
        if (ld <= NARROW) {
            PREFETCH(x + (i + BLOCK_ROWS) * ld);
            PREFETCH(dy + (i + BLOCK_ROWS) * ld);
        }
        UNROLL for (int v = 0; v < width / W; v++) {
            const V xc = LOAD(x) - c[v];
            const V d = gradient(xc, LOAD(dy), a[v], has_residual ? b[v] + LOAD(residual) : b[v],
                                 slope, act);
            s[v] += d;
            p[v] = v_fma(d, xc, p[v]);
        }
    }
#undef LOAD
    UNROLL for (int v = 0; v < width / W; v++) {
        v_storet(sum_d + v * W, s[v]);
        v_storet(sum_dx + v * W, p[v]);
    }
}

/* By itself, so that nothing else takes registers from the sums. */
NOINLINE static void add_sums(const io_t *x, const io_t *dy, const io_t *res, int64_t ld,
                              int64_t rows, int64_t columns, const affines_t *f, const act_t *act,
                              T *sum_d, T *sum_dx)
{
    const T *c = f->centre, *a = f->a, *b = f->b;
    const void *residual = res;
    const V slope = v_set((T)act->slope);
    for (int64_t i = 0; i < rows; i += BLOCK_ROWS) {
        const int64_t some = rows - i < BLOCK_ROWS ? rows - i : BLOCK_ROWS;
        int64_t j = 0;
#define SUMS(A, R, PART, WIDTH)                                                               \
    strip_sums(x + i * ld + j, dy + i * ld + j, R ? res + i * ld + j : NULL, ld, some, c + j, \
               a + j, b + j, slope, sum_d + j, sum_dx + j, PART, A, R, WIDTH)
#define CALL(A, R)                                                                            \
    for (; j + SUM_STRIP <= columns; j += SUM_STRIP)                                          \
        SUMS(A, R, 0, SUM_STRIP);                                                             \
    for (; j + W <= columns; j += W)                                                          \
        SUMS(A, R, 0, W);                                                                     \
    if (j < columns)                                                                          \
        SUMS(A, R, (int)(columns - j), W)
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
    const int64_t padded = (columns + W - 1) / W * W;
    T s[TILE + W], p[TILE + W];
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
                      const T *b_, const T *k0_, const T *k1_, V keep, V slope, int64_t ahead,
                      int stream, const int act, const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(LOAD, LOADT, PUT, STORE)                                                        \
    do {                                                                                      \
        const V c = LOADT(c_ + j), a = LOADT(a_ + j), b = LOADT(b_ + j);                      \
        const V k0 = LOADT(k0_ + j), k1 = LOADT(k1_ + j);                                     \
        V xc[GRAD_ROWS], d[GRAD_ROWS];                                                        \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            xc[k] = LOAD(x + k * ld + j) - c;                                                 \
            d[k] = gradient(xc[k], LOAD(dy + k * ld + j), a,                                  \
                            has_residual ? b + LOAD(residual + k * ld + j) : b, slope, act);  \
        }                                                                                     \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            if (dresidual)                                                                    \
                STORE(dresidual + k * ld + j, d[k]);                                          \
            if (dx)                                                                           \
                PUT(dx + k * ld + j, input_gradient(xc[k], d[k], a, k0, k1, keep));           \
        }                                                                                     \
    } while (0)
    while (j + LINE <= columns) {
        if (K == 1) {
            PREFETCH(x + j + ahead);
            PREFETCH(dy + j + ahead);
            if (has_residual)
                PREFETCH(residual + j + ahead);
        }
        UNROLL for (int v = 0; v < LINE; v += W, j += W)
            APPLY(v_load, v_loadt, PUT, v_store);
    }
    for (; j + W <= columns; j += W)
        APPLY(v_load, v_loadt, PUT, v_store);
    if (j < columns)
        APPLY(LOAD_PART, LOADT_PART, STORE_PART, STORE_PART);
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
    int64_t i = 0;
#define SOME(A, R, K)                                                                         \
    grad_rows(x + i * ld, dy + i * ld, R ? res + i * ld : NULL, dx ? dx + i * ld : NULL,      \
              dres ? dres + i * ld : NULL, ld, columns, f->centre, f->a, f->b, f->k0, f->k1,  \
              keep, slope, ahead_of(columns, ld), stream, A, R, K)
#define CALL(A, R)                                                                            \
    for (; !stream && i + GRAD_ROWS <= rows; i += GRAD_ROWS)                                  \
        SOME(A, R, GRAD_ROWS);                                                                \
    for (; i < rows; i++)                                                                     \
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
