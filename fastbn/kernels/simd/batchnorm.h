/* Batch normalisation of a run of numbers.
 *
 * Moments are taken block by block: the sum and the sum of squares about `shift`, the mean of the
 * block's first eighth. However the values are distributed, the mean of a share f of them is off
 * the mean of all by at most sqrt((1 - f) / f) standard deviations (Cauchy-Schwarz), here 2.6: so
 * q - s * s / n loses three bits at worst, whatever the offset and wherever outliers stand. Blocks
 * are merged in float64 (Chan, Golub & LeVeque 1979). A block whose squares leave T's range is
 * redone in float64.
 *
 * `centre` is the mean rounded to T; what the rounding lost is inside b (and k0), computed in
 * float64 by the caller. x - centre is exact where it matters, so large offsets stay harmless.
 *
 * The loops are written once, with the activation and the residual as constants; DISPATCH makes the
 * variants. What else varies is tested inside the loops, where it costs less than its code would.
 */

enum { BLOCK = 4096 };              /* values in a block of a run: 16 KB of float32 */
enum { TILE = 1024 };               /* columns that are taken at once, at most */
enum { MAP_ROWS = 64 };             /* rows whose sums are taken in T */
enum { ROWS = 4, PAIRS = 2 };       /* rows that share the loads and stores of their sums */
enum { LINE = 64 / sizeof(io_t) };  /* values in a cache line */

#define DISPATCH(CALL)                                         \
    switch (act->kind * 2 + (residual != NULL)) {              \
    case ACT_NONE * 2: CALL(ACT_NONE, 0); break;               \
    case ACT_NONE * 2 + 1: CALL(ACT_NONE, 1); break;           \
    case ACT_RELU * 2: CALL(ACT_RELU, 0); break;               \
    case ACT_RELU * 2 + 1: CALL(ACT_RELU, 1); break;           \
    case ACT_LEAKY * 2: CALL(ACT_LEAKY, 0); break;             \
    default: CALL(ACT_LEAKY, 1); break;                        \
    }

INLINE void put(io_t *p, V v, int stream)
{
    if (stream)
        v_stream(p, v);
    else
        v_store(p, v);
}

INLINE V activate(V z, const int act, V slope)
{
    return act == ACT_RELU ? v_relu(z) : act == ACT_LEAKY ? v_leaky(z, slope) : z;
}

INLINE V activate_grad(V z, V d, const int act, V slope)
{
    return act == ACT_RELU ? v_relu_grad(z, d) : act == ACT_LEAKY ? v_leaky_grad(z, d, slope) : d;
}

/* Fetch vectors j to j + 4 W of a run ahead, into the second-level cache. */
INLINE void fetch(const io_t *p, int64_t j)
{
    if (p)
        UNROLL for (int64_t i = 0; i < 4 * W; i += LINE)
            PREFETCH(p + j + i);
}

INLINE const io_t *ahead_of(const void *p, int64_t at)
{
    return p ? (const io_t *)p + at : NULL;
}

/* ---- moments ---- */

/* Are squares of this size safe in T? Else they overflowed, vanished, or hold NaN or Inf. */
INLINE int squares_are_safe(T q)
{
#if defined(FASTBN_F64)
    return q < 1e300 && q > 1e-290;
#else
    return q < 1e37f && q > 1e-30f;
#endif
}

INLINE void merge(double *count, double *mean, double *m2, double n, double block_mean,
                  double block_m2)
{
    double total = *count + n, delta = block_mean - *mean;
    *mean += delta * (n / total);
    *m2 += block_m2 + delta * delta * (*count * (n / total));
    *count = total;
}

static void careful_moments(const io_t *x, const runs_t *r, double *mean, double *m2)
{
    double sum = 0.0, squares = 0.0, rest = 0.0, n = (double)(r->runs * r->length);
    for (int64_t i = 0; i < r->runs; i++)
        for (int64_t j = 0; j < r->length; j++)
            sum += (double)s_load(x + i * r->stride + j);
    sum /= n;
    for (int64_t i = 0; i < r->runs; i++)
        for (int64_t j = 0; j < r->length; j++) {
            double d = (double)s_load(x + i * r->stride + j) - sum;
            squares += d * d;
            rest += d;
        }
    *mean = sum + rest / n;
    *m2 = squares - rest * (rest / n);
}

/* The sum of the first n values of the run at p. */
INLINE double first_sum(const io_t *p, int64_t n)
{
    V s0 = v_set(0), s1 = s0;
    int64_t j = 0;
    for (; j + 2 * W <= n; j += 2 * W) {
        s0 += v_load(p + j);
        s1 += v_load(p + j + W);
    }
    for (; j + W <= n; j += W)
        s0 += v_load(p + j);
    if (j < n)
        s1 += v_load_part(p + j, (int)(n - j), 0);
    return v_sum(s0 + s1);
}

static void block_moments(const io_t *x, const runs_t *r, double *mean, double *m2)
{
    const double n = (double)(r->runs * r->length);
    const int64_t whole = r->length / W * W;
    const int tail = (int)(r->length - whole);
    const int64_t sample_runs = (r->runs + 7) / 8;
    const int64_t sample = r->runs > 1 ? r->length : (r->length + 7) / 8;
    double sum = 0.0;
    for (int64_t i = 0; i < sample_runs; i++)
        sum += first_sum(x + i * r->stride, sample);
    const T shift = (T)(sum / (double)(sample_runs * sample));
    const V c = v_set(shift);
    V s0 = v_set(0), s1 = s0, s2 = s0, s3 = s0, q0 = s0, q1 = s0, q2 = s0, q3 = s0;
    for (int64_t i = 0; i < r->runs; i++) {
        const io_t *p = x + i * r->stride, *ahead = ahead_of(r->ahead, i * r->stride);
        int64_t j = 0;
        fetch(ahead, whole - 4 * W);
        for (; j + 4 * W <= whole; j += 4 * W) {
            fetch(ahead, j);
            V d0 = v_load(p + j) - c, d1 = v_load(p + j + W) - c;
            V d2 = v_load(p + j + 2 * W) - c, d3 = v_load(p + j + 3 * W) - c;
            s0 += d0, s1 += d1, s2 += d2, s3 += d3;
            q0 = v_fma(d0, d0, q0), q1 = v_fma(d1, d1, q1);
            q2 = v_fma(d2, d2, q2), q3 = v_fma(d3, d3, q3);
        }
        for (; j < whole; j += W) {
            V d = v_load(p + j) - c;
            s0 += d;
            q0 = v_fma(d, d, q0);
        }
        if (tail) {
            V d = v_load_part(p + whole, tail, shift) - c;
            s1 += d;
            q1 = v_fma(d, d, q1);
        }
    }
    const double s = v_sum((s0 + s1) + (s2 + s3)), q = v_sum((q0 + q1) + (q2 + q3));
    if (!squares_are_safe((T)q) && !(q == 0 && s == 0)) {
        careful_moments(x, r, mean, m2);
        return;
    }
    *mean = (double)shift + s / n;
    *m2 = q - s * (s / n);
}

static void run_moments(const void *x_, const runs_t *r, double *mean, double *m2)
{
    const io_t *x = x_;
    double count = 0.0;
    *mean = *m2 = 0.0;
    const int64_t runs = r->length < BLOCK ? BLOCK / r->length : 1; /* of a block */
    for (int64_t i = 0; i < r->runs; i += runs)
        for (int64_t j = 0; j < r->length; j += BLOCK) {
            runs_t block = {r->runs - i < runs ? r->runs - i : runs,
                            r->length - j < BLOCK ? r->length - j : BLOCK, r->stride,
                            ahead_of(r->ahead, i * r->stride + j), NULL};
            double block_mean, block_m2;
            block_moments(x + i * r->stride + j, &block, &block_mean, &block_m2);
            merge(&count, mean, m2, (double)(block.runs * block.length), block_mean, block_m2);
        }
}

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
        runs_t column = {rows, 1, ld, NULL, NULL};
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
                const runs_t map = {count, length, ld, NULL, NULL};
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

/* ---- normalise: y = act((x - centre) * a + b + residual) ---- */

/* STORE(j, stream) for all j < n, a vector at a time. The last vector overlaps the one before; its
 * inputs are read first (BEFORE), because the output may be one of them (then nothing streams). */
#define SWEEP(y, STORE, BEFORE, AFTER, PART)                                                  \
    do {                                                                                      \
        if (n < W) {                                                                          \
            PART;                                                                             \
            break;                                                                            \
        }                                                                                     \
        BEFORE;                                                                               \
        int64_t j = 0, last = n;                                                              \
        const int near = !stream || n < 2 * LINE;                                             \
        if (!near) {                                                                          \
            const int64_t head = to_line(y, n);                                               \
            for (; j < head; j += W)                                                          \
                STORE(j, 0);                                                                  \
            j = head;                                                                         \
            last = head + (n - head) / LINE * LINE;                                           \
        }                                                                                     \
        for (; j + 4 * W <= last; j += 4 * W) {                                               \
            FETCH(j);                                                                         \
            UNROLL for (int v = 0; v < 4; v++)                                                \
                STORE(j + v * W, !near);                                                      \
        }                                                                                     \
        FETCH(j);                                                                             \
        for (; j + W <= n; j += W)                                                            \
            STORE(j, 0);                                                                      \
        if (j < n)                                                                            \
            AFTER;                                                                            \
    } while (0)

INLINE V normal(V x, V c, V a, V b, V slope, const int act)
{
    return activate(v_fma(x - c, a, b), act, slope);
}

INLINE void apply_run(const io_t *x, const io_t *residual, io_t *y, int64_t n, V c, V a, V b,
                      V slope, const int act, const int has_residual, int stream,
                      const io_t *ahead)
{
    V overlap;
#define FETCH(j) fetch(ahead, j)
#define Y(j) \
    normal(v_load(x + (j)), c, a, has_residual ? b + v_load(residual + (j)) : b, slope, act)
#define STORE_Y(j, stream) put(y + (j), Y(j), stream)
#define Y_PART                                                                                \
    normal(v_load_part(x, (int)n, 0), c, a,                                                   \
           has_residual ? b + v_load_part(residual, (int)n, 0) : b, slope, act)
    SWEEP(y, STORE_Y, overlap = Y(n - W), v_store(y + n - W, overlap),
          v_store_part(y, Y_PART, (int)n));
#undef FETCH
#undef Y
#undef STORE_Y
#undef Y_PART
}

static void run_apply(const void *x_, const void *residual, void *y_, const runs_t *r,
                      const affine_t *f, const act_t *act, int stream)
{
    const io_t *x = x_, *res = residual;
    io_t *y = y_;
    const V c = v_set((T)f->centre), a = v_set((T)f->a), b = v_set((T)f->b);
    const V slope = v_set((T)act->slope);
#define CALL(A, R)                                                                            \
    for (int64_t i = 0; i < r->runs; i++)                                                     \
        apply_run(x + i * r->stride, R ? res + i * r->stride : NULL, y + i * r->stride,       \
                  r->length, c, a, b, slope, A, R, stream, ahead_of(r->ahead, i * r->stride))
    DISPATCH(CALL)
#undef CALL
}

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

/* ---- gradients: the sums of d and of d * (x - centre), then dx ---- */

/* d = dy where act lets it through, at the pre-activation that forward had; xc is x - centre. */
INLINE V gradient(V xc, V dy, V a, V b, V slope, const int act)
{
    return act == ACT_NONE ? dy : activate_grad(v_fma(xc, a, b), dy, act, slope);
}

INLINE void sums_of_run(const io_t *x, const io_t *dy, const io_t *residual, int64_t n, V c, V a,
                        V b, V slope, const int act, const int has_residual, V *sum_d, V *sum_dx,
                        const io_t *ahead)
{
    int64_t j = 0;
    for (; j + 4 * W <= n; j += 4 * W) {
        fetch(ahead, j);
        UNROLL for (int v = 0; v < 4; v++) {
            const int64_t at = j + v * W;
            const V xc = v_load(x + at) - c;
            const V d = gradient(xc, v_load(dy + at), a,
                                 has_residual ? b + v_load(residual + at) : b, slope, act);
            sum_d[v] += d;
            sum_dx[v] = v_fma(d, xc, sum_dx[v]);
        }
    }
    fetch(ahead, j);
    for (; j + W <= n; j += W) {
        const V xc = v_load(x + j) - c;
        const V d = gradient(xc, v_load(dy + j), a, has_residual ? b + v_load(residual + j) : b,
                             slope, act);
        sum_d[0] += d;
        sum_dx[0] = v_fma(d, xc, sum_dx[0]);
    }
    if (j < n) { /* in the lanes beyond, dy and x - centre are 0 */
        const int k = (int)(n - j);
        const V xc = v_where(v_first(k), v_load_part(x + j, k, 0) - c, v_set(0));
        const V d = gradient(xc, v_load_part(dy + j, k, 0), a,
                             has_residual ? b + v_load_part(residual + j, k, 0) : b, slope, act);
        sum_d[1] += d;
        sum_dx[1] = v_fma(d, xc, sum_dx[1]);
    }
}

static void run_grad_sums(const void *x_, const void *dy_, const void *residual, const runs_t *r,
                          const affine_t *f, const act_t *act, double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const V c = v_set((T)f->centre), a = v_set((T)f->a), b = v_set((T)f->b);
    const V slope = v_set((T)act->slope);
    const int64_t runs = r->length < BLOCK ? BLOCK / r->length : 1; /* of a block */
    *sum_d = *sum_dx = 0.0;
    for (int64_t i = 0; i < r->runs; i += runs)
        for (int64_t j = 0; j < r->length; j += BLOCK) {
            const int64_t end = i + runs < r->runs ? i + runs : r->runs;
            const int64_t n = r->length - j < BLOCK ? r->length - j : BLOCK;
            V s[4], p[4];
            UNROLL for (int v = 0; v < 4; v++)
                s[v] = p[v] = v_set(0);
#define CALL(A, R)                                                                            \
    for (int64_t k = i; k < end; k++)                                                         \
        sums_of_run(x + k * r->stride + j, dy + k * r->stride + j,                            \
                    R ? res + k * r->stride + j : NULL, n, c, a, b, slope, A, R, s, p,        \
                    ahead_of(r->ahead, k * r->stride + j))
            DISPATCH(CALL)
#undef CALL
            *sum_d += v_sum((s[0] + s[1]) + (s[2] + s[3]));
            *sum_dx += v_sum((p[0] + p[1]) + (p[2] + p[3]));
        }
}

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

/* With frozen statistics dx is a * d: `keep` is all zeros then, else all ones, and so an x that is
 * not finite stays out of dx. */
INLINE V input_gradient(V xc, V d, V a, V k0, V k1, V keep)
{
    return v_fma(a, d, v_fma(v_and(xc, keep), k1, k0));
}

/* d goes to dresidual, dx to dx, where they are not NULL; dx may be dy. */
INLINE void grad_run(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                     io_t *dresidual, int64_t n, V c, V a, V b, V k0, V k1, V keep, V slope,
                     const int act, const int has_residual, int stream, const io_t *ahead,
                     const io_t *ahead2)
{
    V xc, d, overlap, overlap_d;
#define FETCH(j) (fetch(ahead, j), fetch(ahead2, j))
#define D(j)                                                                                  \
    (xc = v_load(x + (j)) - c,                                                                \
     d = gradient(xc, v_load(dy + (j)), a, has_residual ? b + v_load(residual + (j)) : b,     \
                  slope, act))
#define STORE_GRADIENTS(j, stream)                                                            \
    do {                                                                                      \
        D(j);                                                                                 \
        if (dresidual)                                                                        \
            v_store(dresidual + (j), d);                                                      \
        if (dx)                                                                               \
            put(dx + (j), input_gradient(xc, d, a, k0, k1, keep), stream);                    \
    } while (0)
#define BEFORE (overlap_d = D(n - W), overlap = input_gradient(xc, d, a, k0, k1, keep))
#define AFTER                                                                                 \
    do {                                                                                      \
        if (dresidual)                                                                        \
            v_store(dresidual + n - W, overlap_d);                                            \
        if (dx)                                                                               \
            v_store(dx + n - W, overlap);                                                     \
    } while (0)
#define PART                                                                                  \
    do {                                                                                      \
        const int k = (int)n;                                                                 \
        xc = v_load_part(x, k, 0) - c;                                                        \
        d = gradient(xc, v_load_part(dy, k, 0), a,                                            \
                     has_residual ? b + v_load_part(residual, k, 0) : b, slope, act);         \
        if (dresidual)                                                                        \
            v_store_part(dresidual, d, k);                                                    \
        if (dx)                                                                               \
            v_store_part(dx, input_gradient(xc, d, a, k0, k1, keep), k);                      \
    } while (0)
    SWEEP(dx, STORE_GRADIENTS, BEFORE, AFTER, PART);
#undef FETCH
#undef D
#undef STORE_GRADIENTS
#undef BEFORE
#undef AFTER
#undef PART
}

static void run_grad_apply(const void *x_, const void *dy_, const void *residual, void *dx_,
                           void *dresidual_, const runs_t *r, const affine_t *f, const act_t *act,
                           int frozen, int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const V c = v_set((T)f->centre), a = v_set((T)f->a), b = v_set((T)f->b);
    const V k0 = v_set((T)f->k0), k1 = v_set((T)f->k1), slope = v_set((T)act->slope);
    const V keep = v_all(!frozen);
    stream = stream && dx;
#define CALL(A, R)                                                                            \
    for (int64_t i = 0; i < r->runs; i++) {                                                   \
        const int64_t at = i * r->stride;                                                     \
        grad_run(x + at, dy + at, R ? res + at : NULL, dx ? dx + at : NULL,                   \
                 dres ? dres + at : NULL, r->length, c, a, b, k0, k1, keep, slope, A, R,      \
                 stream, ahead_of(r->ahead, at), ahead_of(r->ahead2, at));                    \
    }
    DISPATCH(CALL)
#undef CALL
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
