/* The products of tiles.h for what Winograd convolution makes: W values of a row (channels of a
 * tile) lie side by side, the rows behind one another, then the next W values of all, `apart`
 * values on.
 *
 * product_blocked   c[i][j] = sum over k of a[k / W][i][k % W] * b[k][j]
 * outer_blocked     c[i][j] = sum over p of a[i / W][p][i % W] * b[p][j]
 *
 * No row needs a pointer: where a row stands is known to the compiler. That counts where sums are
 * short.
 */
/* With one vector of columns, registers hold 2 MR rows; what they leave is taken in rows like
 * these. */
#define MID_ROWS (MR * 4 / 3)

INLINE void blocked_body(const T *a, int64_t apart, int64_t depth, const T *b, T *c, int64_t ldc,
                         const int m, const int nv, const int full, int64_t n, int add)
{
    V acc[2 * MR][NV];
    UNROLL24_FOR(int i = 0; i < m; i++)
        UNROLL_FOR(int v = 0; v < nv; v++)
            acc[i][v] = v_set(0);
    for (; depth > 0; depth -= W, a += apart) {
        const T *x = a;
        for (int64_t left = depth < W ? depth : W; left > 0; left--, b += NR, x++) {
            V row[NV];
            UNROLL_FOR(int v = 0; v < nv; v++)
                row[v] = v_loadt(b + v * W);
            UNROLL24_FOR(int i = 0; i < m; i++) {
                const V value = v_set(x[i * W]);
                UNROLL_FOR(int v = 0; v < nv; v++)
                    acc[i][v] = v_fma(value, row[v], acc[i][v]);
            }
        }
    }
    UNROLL24_FOR(int i = 0; i < m; i++)
        store_row(acc[i], c + i * ldc, nv, full ? NR : n, NULL, add);
}

/* count rows of n <= NR columns, ldc apart in c; b: a panel. Meanwhile ahead_bytes from `ahead` are
 * fetched. */
static void product_blocked(const void *a_, int64_t apart, int64_t depth, const void *b, void *c_,
                            int64_t ldc, int64_t count, int64_t n, int add, const void *ahead_,
                            int64_t ahead_bytes)
{
    const T *a = a_;
    T *c = c_;
    const int kind = n == NR ? 0 : n > W ? 1 : 2;
    const char *ahead = ahead_;
    const int64_t share = ahead_bytes / ((count + MR - 1) / MR);
    while (count > 0) {
        int m = count >= MR ? MR : (int)count;
        if (kind == 2 && (count == 2 * MR || count >= 2 * MR + MID_ROWS))
            m = 2 * MR;
        else if (kind == 2 && count >= MID_ROWS)
            m = MID_ROWS;
        for (const char *end = ahead + share; ahead < end; ahead += 64)
            PREFETCH(ahead);
#define BODY(M, NV, FULL) blocked_body(a, apart, depth, b, c, ldc, M, NV, FULL, n, add)
        switch (m * 4 + kind) {
#define CALL(M)                                                                                    \
    case M * 4: BODY(M, NV, 1); break;                                                             \
    case M * 4 + 1: BODY(M, NV, 0); break;                                                         \
    case M * 4 + 2: BODY(M, 1, 0); break;
            ROW_CASES(CALL)
#undef CALL
        case MID_ROWS * 4 + 2: BODY(MID_ROWS, 1, 0); break;
        default: BODY(2 * MR, 1, 0);
        }
#undef BODY
        a += m * W;
        c += m * ldc;
        count -= m;
    }
}

INLINE void outer_blocked_body(int64_t count, const T *a, int64_t apart, int64_t first, const T *b,
                               T *c, int64_t ldc, const int m, const int nv, const int part,
                               int64_t n, int add, const int lie)
{
    V acc[MOST_ROWS][NV];
    int64_t o[MOST_ROWS];
    UNROLL_FOR(int i = 0; i < m; i++) {
        o[i] = lie ? i : (first + i) / W * apart + (first + i) % W - first;
        UNROLL_FOR(int v = 0; v < nv; v++)
            acc[i][v] = v_set(0);
    }
    for (; count > 0; count--, a += W, b += NR) {
        V row[NV];
        UNROLL_FOR(int v = 0; v < nv; v++)
            row[v] = v_loadt(b + v * W);
        UNROLL_FOR(int i = 0; i < m; i++) {
            const V value = v_set(a[o[i]]);
            UNROLL_FOR(int v = 0; v < nv; v++)
                acc[i][v] = v_fma(value, row[v], acc[i][v]);
        }
    }
    UNROLL_FOR(int i = 0; i < m; i++)
        store_row(acc[i], c + i * ldc, nv, part ? n : nv * W, NULL, add);
}

/* `rows` rows of n <= NR columns, ldc apart in c; b: a panel of count rows. */
static void outer_blocked(int64_t count, const void *a_, int64_t apart, const void *b, void *c_,
                          int64_t ldc, int64_t rows, int64_t n, int add)
{
    T *c = c_;
    const int kind = n == NR ? 0 : n > W ? 1 : 2, most = kind == 2 ? NARROW_ROWS : BLOCK_ROWS;
    for (int64_t i = 0, m; i < rows; i += m, c += m * ldc) {
        const int64_t left = rows - i, first = i % W;
        const T *a = (const T *)a_ + i / W * apart + first;
        m = left >= most ? most : left < MR ? left : MR;
        for (int64_t k = m; k < 2 * m && k < left; k++)
            prefetch_write(c + k * ldc, 0);
#define BODY(M, NV, PART, LIE)                                                                     \
    outer_blocked_body(count, a, apart, first, b, c, ldc, M, NV, PART, n, add, LIE)
        if (m == NARROW_ROWS && kind == 2 && first + m <= W)
            BODY(NARROW_ROWS, 1, 1, 1);
        else
            switch (m * 8 + kind * 2 + (first + m <= W)) {
#define CALL(M)                                                                                    \
    case M * 8: BODY(M, NV, 0, 0); break;                                                          \
    case M * 8 + 1: BODY(M, NV, 0, 1); break;                                                      \
    case M * 8 + 2: BODY(M, NV, 1, 0); break;                                                      \
    case M * 8 + 3: BODY(M, NV, 1, 1); break;                                                      \
    case M * 8 + 4: BODY(M, 1, 1, 0); break;                                                       \
    case M * 8 + 5: BODY(M, 1, 1, 1); break;
                ROW_CASES(CALL)
#undef CALL
            }
#undef BODY
    }
}
