/* Matrix products, a tile at a time: what Linear and Conv2d share.
 *
 * product_tile   c[i][j] = sum over taps t and k of a[t][i][k] * b[t][k][j]
 *     A row of a is a pointer for every tap, so that a convolution reads its input where it lies:
 *     the tap's pixel, or zeros for padding. Linear has one tap. b is packed into panels, NR
 *     columns wide and zero beyond the last column.
 * outer_tile     c[i][j] = sum over p of a[p][i] * b[p][j]
 *     The gradient of the weights: a and b are as forward saw them, one pointer for every pixel.
 *
 * MR rows by NV vectors of c stay in registers: 12 of 16, or 24 of 32. The bodies are written
 * once, with the number of rows and vectors as constants.
 */
#if !defined(FASTBN_BF16)

#if defined(__AVX512F__) || defined(__aarch64__)
#define MR 12
#define ROW_CASES(CALL) \
    CALL(1) CALL(2) CALL(3) CALL(4) CALL(5) CALL(6) CALL(7) CALL(8) CALL(9) CALL(10) CALL(11) CALL(12)
#else
#define MR 6
#define ROW_CASES(CALL) CALL(1) CALL(2) CALL(3) CALL(4) CALL(5) CALL(6)
#endif
#define NV 2
#define NR (NV * W)

/* Store nv vectors of a row of c, of which n columns count; add to what is there, or to bias. */
INLINE void store_row(const V *acc, T *c, const int nv, int64_t n, const T *bias, int add)
{
    UNROLL for (int v = 0; v < nv; v++) {
        T *p = c + v * W;
        const int64_t left = n - v * W;
        V value = acc[v];
        if (left >= W) {
            if (bias)
                value += v_loadt(bias + v * W);
            v_storet(p, add ? v_loadt(p) + value : value);
        } else if (left > 0) {
            const int k = (int)left;
            if (bias)
                value += v_loadt_part(bias + v * W, k);
            v_storet_part(p, add ? v_loadt_part(p, k) + value : value, k);
        }
    }
}

INLINE void product_body(int64_t taps, int64_t depth, const T *const *rows, const T *b,
                         T *const *c, int64_t at, const int m, int64_t n, const T *bias, int add)
{
    V acc[MR][NV];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < NV; v++)
            acc[i][v] = v_set(0);
    for (int64_t t = 0; t < taps; t++, rows += MR) {
        const T *a[MR];
        UNROLL for (int i = 0; i < m; i++)
            a[i] = rows[i];
        for (int64_t k = 0; k < depth; k++, b += NR) {
            V row[NV];
            UNROLL for (int v = 0; v < NV; v++)
                row[v] = v_loadt(b + v * W);
            UNROLL for (int i = 0; i < m; i++) {
                const V x = v_set(a[i][k]);
                UNROLL for (int v = 0; v < NV; v++)
                    acc[i][v] = v_fma(x, row[v], acc[i][v]);
            }
        }
    }
    UNROLL for (int i = 0; i < m; i++)
        store_row(acc[i], c[i] + at, NV, n, bias, add);
}

/* rows[t][i]: row i of tap t, MR pointers a tap, m of them used. c[i] + at: n <= NR columns. */
static void product_tile(int64_t taps, int64_t depth, const void *const *rows_, const void *b,
                         void *const *c_, int64_t at, int m, int64_t n, const void *bias, int add)
{
    const T *const *rows = (const T *const *)rows_;
    T *const *c = (T *const *)c_;
    switch (m) {
#define CALL(M)                                                              \
    case M:                                                                  \
        product_body(taps, depth, rows, b, c, at, M, n, bias, add);          \
        break;
        ROW_CASES(CALL)
#undef CALL
    }
}

INLINE void outer_body(int64_t count, const T *const *a, int64_t at, const T *b, int64_t ldb, T *c,
                       int64_t ldc, const int m, const int nv, const int part, int64_t n, int add)
{
    V acc[MR][NV];
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int v = 0; v < nv; v++)
            acc[i][v] = v_set(0);
    for (int64_t p = 0; p < count; p++, b += ldb) {
        const T *x = a[p] + at;
        V row[NV];
        UNROLL for (int v = 0; v < nv; v++)
            row[v] = part && v == nv - 1 ? v_loadt_part(b + v * W, (int)(n - v * W))
                                         : v_loadt(b + v * W);
        UNROLL for (int i = 0; i < m; i++) {
            const V value = v_set(x[i]);
            UNROLL for (int v = 0; v < nv; v++)
                acc[i][v] = v_fma(value, row[v], acc[i][v]);
        }
    }
    UNROLL for (int i = 0; i < m; i++)
        store_row(acc[i], c + i * ldc, nv, n, NULL, add);
}

/* a[p] + at: m values; b + p * ldb: n <= NR values. */
static void outer_tile(int64_t count, const void *const *a_, int64_t at, const void *b,
                       int64_t ldb, void *c, int64_t ldc, int m, int64_t n, int add)
{
    const T *const *a = (const T *const *)a_;
    const int kind = n == NR ? 0 : n > W ? 1 : n == W ? 2 : 3;
    switch (m * 4 + kind) {
#define CALL(M)                                                                      \
    case M * 4: outer_body(count, a, at, b, ldb, c, ldc, M, NV, 0, n, add); break;   \
    case M * 4 + 1: outer_body(count, a, at, b, ldb, c, ldc, M, NV, 1, n, add); break; \
    case M * 4 + 2: outer_body(count, a, at, b, ldb, c, ldc, M, 1, 0, n, add); break; \
    case M * 4 + 3: outer_body(count, a, at, b, ldb, c, ldc, M, 1, 1, n, add); break;
        ROW_CASES(CALL)
#undef CALL
    }
}

/* One panel: panel[k][j] = b[k * sk + j * sn], j < n; zero for n <= j < NR. */
static void pack_panel(const void *b_, int64_t depth, int64_t n, int64_t sk, int64_t sn,
                       void *panel_)
{
    const T *b = b_;
    T *panel = panel_;
    if (sn == 1 && n == NR) {
        for (int64_t k = 0; k < depth; k++)
            for (int v = 0; v < NV; v++)
                v_storet(panel + k * NR + v * W, v_loadt(b + k * sk + v * W));
        return;
    }
    for (int64_t k = 0; k < depth; k++)
        for (int64_t j = n; j < NR; j++)
            panel[k * NR + j] = 0;
    if (sk == 1) { /* b is transposed: along its rows, a few at a time, so that lines are reused */
        for (int64_t k = 0; k < depth; k += 16) {
            const int64_t end = k + 16 < depth ? k + 16 : depth;
            for (int64_t j = 0; j < n; j++)
                for (int64_t i = k; i < end; i++)
                    panel[i * NR + j] = b[i + j * sn];
        }
        return;
    }
    for (int64_t k = 0; k < depth; k++)
        for (int64_t j = 0; j < n; j++)
            panel[k * NR + j] = b[k * sk + j * sn];
}

/* sums[j] += the sum of column j, in blocks of rows whose sums are taken in T. */
static void col_sums(const void *x_, int64_t rows, int64_t columns, int64_t ld, double *sums)
{
    const T *x = x_;
    for (int64_t j = 0; j < columns; j += W) {
        const int part = columns - j < W ? (int)(columns - j) : 0;
        V s = v_set(0);
        for (int64_t i = 0; i < rows; i++)
            s += part ? v_loadt_part(x + i * ld + j, part) : v_loadt(x + i * ld + j);
        T lanes[W];
        v_storet(lanes, s);
        for (int v = 0; v < (part ? part : W); v++)
            sums[j + v] += (double)lanes[v];
    }
}

#define MATMUL_SPANS {MR, NR, product_tile, outer_tile, pack_panel, col_sums}
#else
#define MATMUL_SPANS {0}
#endif
