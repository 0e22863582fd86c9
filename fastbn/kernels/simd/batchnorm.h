/* Batch normalisation of a run of numbers.
 *
 * Moments are taken block by block, a block small enough to stay in the first-level cache: its
 * mean, then the sum and the sum of squares about that mean. Blocks are merged in float64 (Chan,
 * Golub & LeVeque 1979). So an offset of any size costs no digits, and the second look at a block
 * costs no memory traffic. A block whose squares leave T's range is redone in float64.
 *
 * `centre` is the mean rounded to T; what the rounding lost is inside b (and k0), computed in
 * float64 by the caller. x - centre is exact where it matters, so large offsets stay harmless.
 *
 * The loops are written once, with the activation, the residual and the kind of store as
 * constants; DISPATCH makes the variants.
 */

enum { BLOCK = 4096 }; /* values in a block of a run: 16 KB of float32 */
enum { GROUP = 4 };    /* vectors of columns that are accumulated in registers together */
enum { LINE = 64 / sizeof(io_t) };

#if FASTBN_STREAMS
#define STREAM_CASES(CALL, A, R) if (stream) { CALL(A, R, 1); } else { CALL(A, R, 0); }
#else
#define STREAM_CASES(CALL, A, R) { CALL(A, R, 0); }
#endif
#define DISPATCH(CALL)                                          \
    switch (act->kind * 2 + (residual != NULL)) {               \
    case ACT_NONE * 2: STREAM_CASES(CALL, ACT_NONE, 0); break;  \
    case ACT_NONE * 2 + 1: STREAM_CASES(CALL, ACT_NONE, 1); break; \
    case ACT_RELU * 2: STREAM_CASES(CALL, ACT_RELU, 0); break;  \
    case ACT_RELU * 2 + 1: STREAM_CASES(CALL, ACT_RELU, 1); break; \
    case ACT_LEAKY * 2: STREAM_CASES(CALL, ACT_LEAKY, 0); break; \
    default: STREAM_CASES(CALL, ACT_LEAKY, 1); break;           \
    }

INLINE V activate(V z, const int act, V slope)
{
    return act == ACT_RELU ? v_relu(z) : act == ACT_LEAKY ? v_leaky(z, slope) : z;
}

INLINE V activate_grad(V z, V d, const int act, V slope)
{
    return act == ACT_RELU ? v_relu_grad(z, d) : act == ACT_LEAKY ? v_leaky_grad(z, d, slope) : d;
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

static void block_moments(const io_t *x, const runs_t *r, double *mean, double *m2)
{
    const double n = (double)(r->runs * r->length);
    const int64_t whole = r->length / W * W;
    const int tail = (int)(r->length - whole);
    V s0 = v_set(0), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t i = 0; i < r->runs; i++) {
        const io_t *p = x + i * r->stride;
        int64_t j = 0;
        for (; j + 4 * W <= whole; j += 4 * W) {
            s0 += v_load(p + j);
            s1 += v_load(p + j + W);
            s2 += v_load(p + j + 2 * W);
            s3 += v_load(p + j + 3 * W);
        }
        for (; j < whole; j += W)
            s0 += v_load(p + j);
        if (tail)
            s1 += v_load_part(p + whole, tail, 0);
    }
    const T centre = (T)(v_sum((s0 + s1) + (s2 + s3)) / n);
    const V c = v_set(centre);
    V q0 = v_set(0), q1 = q0, q2 = q0, q3 = q0;
    s0 = s1 = s2 = s3 = v_set(0);
    for (int64_t i = 0; i < r->runs; i++) {
        const io_t *p = x + i * r->stride;
        int64_t j = 0;
        for (; j + 4 * W <= whole; j += 4 * W) {
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
            V d = v_load_part(p + whole, tail, centre) - c;
            s1 += d;
            q1 = v_fma(d, d, q1);
        }
    }
    const double s = v_sum((s0 + s1) + (s2 + s3)), q = v_sum((q0 + q1) + (q2 + q3));
    if (!squares_are_safe((T)q) && !(q == 0 && s == 0)) {
        careful_moments(x, r, mean, m2);
        return;
    }
    *mean = (double)centre + s / n;
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
                            r->length - j < BLOCK ? r->length - j : BLOCK, r->stride};
            double block_mean, block_m2;
            block_moments(x + i * r->stride + j, &block, &block_mean, &block_m2);
            merge(&count, mean, m2, (double)(block.runs * block.length), block_mean, block_m2);
        }
}

/* A group of up to GROUP vectors of columns: sum, then sum and squares about the rounded mean. */
INLINE void group_moments(const io_t *x, int64_t rows, int64_t ld, const int vectors,
                          const int part, T *centre, T *s, T *q)
{
    V sum[GROUP], square[GROUP], c[GROUP];
    const V share = v_set((T)(1.0 / (double)rows));
    for (int v = 0; v < vectors; v++)
        sum[v] = v_set(0);
    for (int64_t i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            sum[v] += part ? v_load_part(x + i * ld, part, 0) : v_load(x + i * ld + v * W);
    for (int v = 0; v < vectors; v++) {
        c[v] = sum[v] * share;
        sum[v] = square[v] = v_set(0);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            V d = (part ? v_load_part(x + i * ld, part, 0) : v_load(x + i * ld + v * W)) - c[v];
            sum[v] += d;
            square[v] = v_fma(d, d, square[v]);
        }
    for (int v = 0; v < vectors; v++) {
        if (part) {
            v_storet_part(centre, c[v], part);
            v_storet_part(s, sum[v], part);
            v_storet_part(q, square[v], part);
        } else {
            v_storet(centre + v * W, c[v]);
            v_storet(s + v * W, sum[v]);
            v_storet(q + v * W, square[v]);
        }
    }
}

/* Merge the moments of `rows` further rows into those of the `count` before. columns <= TILE. */
enum { TILE = 512 };
static void col_moments(const void *x_, int64_t rows, int64_t columns, int64_t ld, double count,
                        double *mean, double *m2)
{
    const io_t *x = x_;
    T centre[TILE], s[TILE], q[TILE];
    int64_t j = 0;
    for (; j + GROUP * W <= columns; j += GROUP * W)
        group_moments(x + j, rows, ld, GROUP, 0, centre + j, s + j, q + j);
    for (; j + W <= columns; j += W)
        group_moments(x + j, rows, ld, 1, 0, centre + j, s + j, q + j);
    if (j < columns)
        group_moments(x + j, rows, ld, 1, (int)(columns - j), centre + j, s + j, q + j);
    const double n = (double)rows, share = 1.0 / n, weight = n / (count + n);
    int safe = 1;
    for (j = 0; j < columns; j++)
        safe &= squares_are_safe(q[j]) | ((q[j] == 0) & (s[j] == 0));
    if (safe) {
        for (j = 0; j < columns; j++) {
            double shift = (double)s[j] * share, delta = (double)centre[j] + shift - mean[j];
            mean[j] += delta * weight;
            m2[j] += (double)q[j] - (double)s[j] * shift + delta * delta * (count * weight);
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

/* ---- normalise: y = act((x - centre) * a + b + residual) ---- */

INLINE void apply_run(const io_t *x, const io_t *residual, io_t *y, int64_t n, V c, V a, V b,
                      V slope, const int act, const int has_residual, const int stream)
{
#define VALUE(LOAD)                                              \
    activate(v_fma(LOAD(x) - c, a, has_residual ? b + LOAD(residual) : b), act, slope)
#define WHOLE(p) v_load(p + j)
#define PART(p) v_load_part(p + j, k, 0)
    int64_t j = 0;
    if (stream) {
        const int64_t head = to_line(y, n), last = head + (n - head) / LINE * LINE;
        while (j < head) {
            const int k = head - j < W ? (int)(head - j) : W;
            if (k == W)
                v_store(y + j, VALUE(WHOLE));
            else
                v_store_part(y + j, VALUE(PART), k);
            j += k;
        }
        for (; j < last; j += W)
            v_stream(y + j, VALUE(WHOLE));
    }
    for (; j + W <= n; j += W)
        v_store(y + j, VALUE(WHOLE));
    if (j < n) {
        const int k = (int)(n - j);
        v_store_part(y + j, VALUE(PART), k);
    }
#undef VALUE
}

static void run_apply(const void *x_, const void *residual, void *y_, const runs_t *r,
                      const affine_t *f, const act_t *act, int stream)
{
    const io_t *x = x_, *res = residual;
    io_t *y = y_;
    const V c = v_set((T)f->centre), a = v_set((T)f->a), b = v_set((T)f->b);
    const V slope = v_set((T)act->slope);
#define CALL(A, R, S)                                                                         \
    for (int64_t i = 0; i < r->runs; i++)                                                     \
        apply_run(x + i * r->stride, R ? res + i * r->stride : NULL, y + i * r->stride,       \
                  r->length, c, a, b, slope, A, R, S)
    DISPATCH(CALL)
#undef CALL
    (void)stream;
}

INLINE void apply_row(const io_t *x, const io_t *residual, io_t *y, int64_t n, const T *centre,
                      const T *a, const T *b, V slope, const int act, const int has_residual,
                      const int stream)
{
#define VALUE(LOAD, LOADT)                                                                    \
    activate(v_fma(LOAD(x) - LOADT(centre), LOADT(a),                                         \
                   has_residual ? LOADT(b) + LOAD(residual) : LOADT(b)), act, slope)
#define WHOLET(p) v_loadt(p + j)
#define PARTT(p) v_loadt_part(p + j, k)
    int64_t j = 0;
    if (stream) {
        const int64_t head = to_line(y, n), last = head + (n - head) / LINE * LINE;
        while (j < head) {
            const int k = head - j < W ? (int)(head - j) : W;
            if (k == W)
                v_store(y + j, VALUE(WHOLE, WHOLET));
            else
                v_store_part(y + j, VALUE(PART, PARTT), k);
            j += k;
        }
        for (; j < last; j += W)
            v_stream(y + j, VALUE(WHOLE, WHOLET));
    }
    for (; j + W <= n; j += W)
        v_store(y + j, VALUE(WHOLE, WHOLET));
    if (j < n) {
        const int k = (int)(n - j);
        v_store_part(y + j, VALUE(PART, PARTT), k);
    }
#undef VALUE
}

static void col_apply(const void *x_, const void *residual, void *y_, int64_t rows,
                      int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                      int stream)
{
    const io_t *x = x_, *res = residual;
    io_t *y = y_;
    const T *centre = f->centre, *a = f->a, *b = f->b;
    const V slope = v_set((T)act->slope);
#define CALL(A, R, S)                                                                         \
    for (int64_t i = 0; i < rows; i++)                                                        \
        apply_row(x + i * ld, R ? res + i * ld : NULL, y + i * ld, columns, centre, a, b,     \
                  slope, A, R, S)
    DISPATCH(CALL)
#undef CALL
    (void)stream;
}

/* ---- gradients: the sums of d and of d * (x - centre), then dx ---- */

/* d = dy where act lets it through, at the pre-activation z that forward had. */
#define GRADIENT(LOAD, C, A_, B_)                                                             \
    (act == ACT_NONE ? LOAD(dy)                                                               \
                     : activate_grad(v_fma(LOAD(x) - C, A_, has_residual ? B_ + LOAD(residual) \
                                                                         : B_),               \
                                     LOAD(dy), act, slope))

INLINE void sums_of_run(const io_t *x, const io_t *dy, const io_t *residual, int64_t n, V c, V a,
                        V b, V slope, const int act, const int has_residual, V *sum_d, V *sum_dx)
{
    V s0 = sum_d[0], s1 = sum_d[1], p0 = sum_dx[0], p1 = sum_dx[1];
    int64_t j = 0;
    for (; j + 2 * W <= n; j += W) {
        V d = GRADIENT(WHOLE, c, a, b);
        s0 += d;
        p0 = v_fma(d, WHOLE(x) - c, p0);
        j += W;
        d = GRADIENT(WHOLE, c, a, b);
        s1 += d;
        p1 = v_fma(d, WHOLE(x) - c, p1);
    }
    for (; j + W <= n; j += W) {
        V d = GRADIENT(WHOLE, c, a, b);
        s0 += d;
        p0 = v_fma(d, WHOLE(x) - c, p0);
    }
    if (j < n) { /* dy is 0 in the lanes beyond; x is centre, so that 0 * Inf cannot arise */
        const int k = (int)(n - j);
        V d = GRADIENT(PART, c, a, b);
        s1 += d;
        p1 = v_fma(d, v_load_part(x + j, k, 0) - v_loadt_part((const T *)&c, k), p1);
    }
    sum_d[0] = s0, sum_d[1] = s1, sum_dx[0] = p0, sum_dx[1] = p1;
}

static void run_grad_sums(const void *x_, const void *dy_, const void *residual, const runs_t *r,
                          const affine_t *f, const act_t *act, double *sum_d, double *sum_dx)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    const V c = v_set((T)f->centre), a = v_set((T)f->a), b = v_set((T)f->b);
    const V slope = v_set((T)act->slope);
    const int stream = 0;
    const int64_t runs = r->length < BLOCK ? BLOCK / r->length : 1; /* of a block */
    *sum_d = *sum_dx = 0.0;
    for (int64_t i = 0; i < r->runs; i += runs)
        for (int64_t j = 0; j < r->length; j += BLOCK) {
            const int64_t end = i + runs < r->runs ? i + runs : r->runs;
            const int64_t n = r->length - j < BLOCK ? r->length - j : BLOCK;
            V s[2] = {v_set(0), v_set(0)}, p[2] = {v_set(0), v_set(0)};
#define CALL(A, R, S)                                                                         \
    for (int64_t k = i; k < end; k++)                                                         \
        sums_of_run(x + k * r->stride + j, dy + k * r->stride + j,                            \
                    R ? res + k * r->stride + j : NULL, n, c, a, b, slope, A, R, s, p)
            DISPATCH(CALL)
#undef CALL
            *sum_d += v_sum(s[0] + s[1]);
            *sum_dx += v_sum(p[0] + p[1]);
        }
    (void)stream;
}

INLINE void sums_of_group(const io_t *x, const io_t *dy, const io_t *residual, int64_t rows,
                          int64_t ld, const int vectors, const int part, const T *centre,
                          const T *a_, const T *b_, V slope, const int act,
                          const int has_residual, T *sum_d, T *sum_dx)
{
    V s[2], p[2], c[2], a[2], b[2];
    for (int v = 0; v < vectors; v++) {
        c[v] = part ? v_loadt_part(centre, part) : v_loadt(centre + v * W);
        a[v] = part ? v_loadt_part(a_, part) : v_loadt(a_ + v * W);
        b[v] = part ? v_loadt_part(b_, part) : v_loadt(b_ + v * W);
        s[v] = p[v] = v_set(0);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            const int64_t j = i * ld + v * W;
#define EITHER(q) (part ? v_load_part(q + j, part, 0) : v_load(q + j))
            V d = GRADIENT(EITHER, c[v], a[v], b[v]);
            s[v] += d;
            p[v] = v_fma(d, EITHER(x) - c[v], p[v]);
#undef EITHER
        }
    for (int v = 0; v < vectors; v++)
        if (part) {
            v_storet_part(sum_d, s[v], part);
            v_storet_part(sum_dx, p[v], part);
        } else {
            v_storet(sum_d + v * W, s[v]);
            v_storet(sum_dx + v * W, p[v]);
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
    const int stream = 0;
    T s[TILE], p[TILE];
    int64_t j = 0;
#define GROUP_SUMS(A, R, VECTORS, PART_)                                                      \
    sums_of_group(x + j, dy + j, R ? res + j : NULL, rows, ld, VECTORS, PART_, c + j, a + j,  \
                  b + j, slope, A, R, s + j, p + j)
#define CALL(A, R, S)                                                                         \
    do {                                                                                      \
        for (; j + 2 * W <= columns; j += 2 * W)                                              \
            GROUP_SUMS(A, R, 2, 0);                                                           \
        for (; j + W <= columns; j += W)                                                      \
            GROUP_SUMS(A, R, 1, 0);                                                           \
        if (j < columns)                                                                      \
            GROUP_SUMS(A, R, 1, (int)(columns - j));                                          \
    } while (0)
    DISPATCH(CALL)
#undef CALL
#undef GROUP_SUMS
    for (j = 0; j < columns; j++) {
        sum_d[j] += (double)s[j];
        sum_dx[j] += (double)p[j];
    }
    (void)stream;
}

/* With frozen statistics dx = a * d, and x is read for the mask only. dresidual is d. */
#define STORE_GRADIENTS(LOAD, LOADC, STORE, STORE_NEAR)                                       \
    do {                                                                                      \
        V d = GRADIENT(LOAD, LOADC(c), LOADC(a), LOADC(b));                                   \
        V g = frozen ? LOADC(a) * d                                                           \
                     : v_fma(LOADC(a), d, v_fma(LOAD(x) - LOADC(c), LOADC(k1), LOADC(k0)));   \
        if (dx)                                                                               \
            STORE(dx + j, g);                                                                 \
        if (dresidual)                                                                        \
            STORE_NEAR(dresidual + j, d);                                                     \
    } while (0)
#define STORE_PART(p, v) v_store_part(p, v, k)
#define GRADIENT_LOOPS(LOADC, LOADC_PART)                                                     \
    int64_t j = 0;                                                                            \
    if (stream && dx) {                                                                       \
        const int64_t head = to_line(dx, n), last = head + (n - head) / LINE * LINE;          \
        while (j < head) {                                                                    \
            const int k = head - j < W ? (int)(head - j) : W;                                 \
            if (k == W)                                                                       \
                STORE_GRADIENTS(WHOLE, LOADC, v_store, v_store);                              \
            else                                                                              \
                STORE_GRADIENTS(PART, LOADC_PART, STORE_PART, STORE_PART);                    \
            j += k;                                                                           \
        }                                                                                     \
        for (; j < last; j += W)                                                              \
            STORE_GRADIENTS(WHOLE, LOADC, v_stream, v_store);                                 \
    }                                                                                         \
    for (; j + W <= n; j += W)                                                                \
        STORE_GRADIENTS(WHOLE, LOADC, v_store, v_store);                                      \
    if (j < n) {                                                                              \
        const int k = (int)(n - j);                                                           \
        STORE_GRADIENTS(PART, LOADC_PART, STORE_PART, STORE_PART);                            \
    }

INLINE void grad_run(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                     io_t *dresidual, int64_t n, V c, V a, V b, V k0, V k1, V slope,
                     const int act, const int has_residual, const int frozen, const int stream)
{
#define SAME(v) v
    GRADIENT_LOOPS(SAME, SAME)
#undef SAME
}

static void run_grad_apply(const void *x_, const void *dy_, const void *residual, void *dx_,
                           void *dresidual_, const runs_t *r, const affine_t *f, const act_t *act,
                           int frozen, int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const V c = v_set((T)f->centre), a = v_set((T)f->a), b = v_set((T)f->b);
    const V k0 = v_set((T)f->k0), k1 = v_set((T)f->k1), slope = v_set((T)act->slope);
#define CALL(A, R, S)                                                                         \
    for (int64_t i = 0; i < r->runs; i++) {                                                   \
        const int64_t at = i * r->stride;                                                     \
        grad_run(x + at, dy + at, R ? res + at : NULL, dx ? dx + at : NULL,                   \
                 dres ? dres + at : NULL, r->length, c, a, b, k0, k1, slope, A, R, frozen, S); \
    }
    DISPATCH(CALL)
#undef CALL
    (void)stream;
}

INLINE void grad_row(const io_t *x, const io_t *dy, const io_t *residual, io_t *dx,
                     io_t *dresidual, int64_t n, const T *c, const T *a, const T *b, const T *k0,
                     const T *k1, V slope, const int act, const int has_residual,
                     const int frozen, const int stream)
{
    GRADIENT_LOOPS(WHOLET, PARTT)
}

static void col_grad_apply(const void *x_, const void *dy_, const void *residual, void *dx_,
                           void *dresidual_, int64_t rows, int64_t columns, int64_t ld,
                           const affines_t *f, const act_t *act, int frozen, int stream)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *dx = dx_, *dres = dresidual_;
    const T *c = f->centre, *a = f->a, *b = f->b, *k0 = f->k0, *k1 = f->k1;
    const V slope = v_set((T)act->slope);
#define CALL(A, R, S)                                                                         \
    for (int64_t i = 0; i < rows; i++) {                                                      \
        const int64_t at = i * ld;                                                            \
        grad_row(x + at, dy + at, R ? res + at : NULL, dx ? dx + at : NULL,                   \
                 dres ? dres + at : NULL, columns, c, a, b, k0, k1, slope, A, R, frozen, S);  \
    }
    DISPATCH(CALL)
#undef CALL
    (void)stream;
}

