/* Matrix products, a tile at a time: what Linear and Conv2d share.
 *
 * product_rows   c[i][j] = sum over segments s and k of rows[i][start[s] + k] * b[s][k][j]
 *     A row of a is read where it lies, in segments that stand at the same places in every row:
 *     what a convolution's window sees of its input. Linear has one segment. b is packed into
 *     panels, NR columns wide and zero beyond the last column; NR whole columns may be read where
 *     they lie.
 * dot_rows       the same with b[j][s][k], for one to three columns: the sums run through vectors
 * outer_rows     c[i][j] = sum over p of a[p][off[i]] * b[p][j]
 *     The gradient of the weights: a[p] is where what pixel (or row) p sees begins.
 *
 * product_blocked and outer_blocked, the same for rows in blocks, stand in blocked.h.
 *
 * MR rows by NV vectors of c stay in registers: 12 of 16, or 24 of 32. The bodies are written
 * once, with the number of rows and vectors as constants.
 */
#include "matmul/panel.h"

enum { TLINE = LINE_BYTES / sizeof(T) }; /* numbers in a line of the cache */

/* Store nv vectors of a row of c, of which n columns count; add to what is there, or to bias. */
INLINE void store_row(const V *acc, T *c, const int nv, int64_t n, const T *bias, int add)
{
    UNROLL_FOR(int v = 0; v < nv; v++) {
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

/* A tile's row of c will be written from c + at on. */
INLINE void prefetch_write(const T *c, int64_t at)
{
    for (int j = 0; j < NR; j += TLINE)
        PREFETCH_WRITE(c + at + j);
}

INLINE void product_body(int64_t segments, const int64_t *start, const int64_t *length,
                         const T *const *rows, const T *b, int64_t ldb, T *const *c, int64_t at,
                         const int m, const int nv, const int full, int64_t n, const T *bias,
                         int add, const int prefetch)
{
    V acc[MR][NV];
    UNROLL_FOR(int i = 0; i < m; i++)
        UNROLL_FOR(int v = 0; v < nv; v++)
            acc[i][v] = v_set(0);
    for (int64_t s = 0; s < segments; s++) {
        const int64_t depth = length[s];
        const T *a[MR];
        UNROLL_FOR(int i = 0; i < m; i++)
            a[i] = rows[i] + start[s] + depth;
        for (int64_t k = -depth; k < 0; k++, b += ldb) { /* no register for where it ends */
            V row[NV];
            UNROLL_FOR(int v = 0; v < nv; v++)
                row[v] = v_loadt(b + v * W);
            if (prefetch) /* a line of one of the next rows */
                PREFETCH(rows[m + (k & (TLINE - 1))] + start[0] + depth + (k & -TLINE));
            UNROLL_FOR(int i = 0; i < m; i++) {
                const V x = v_set(a[i][k]);
                UNROLL_FOR(int v = 0; v < nv; v++)
                    acc[i][v] = v_fma(x, row[v], acc[i][v]);
            }
        }
    }
    UNROLL_FOR(int i = 0; i < m; i++)
        store_row(acc[i], c[i] + at, nv, full ? NR : n, bias, add);
}

/* count rows, a tile at a time; c[i] + at: n <= NR columns. b's rows are ldb apart: NR in a panel.
 * Meanwhile ahead_bytes from `ahead`, which a later call will read, are fetched into the
 * second-level cache. With `prefetch`, rows are one segment each and not in cache: a tile fetches
 * the TLINE rows behind it, a line in each step; where MR are more, the processor finds the others.
 * */
static void product_rows(int64_t segments, const int64_t *start, const int64_t *length,
                         const void *const *rows_, const void *b, int64_t ldb, void *const *c_,
                         int64_t at, int64_t count, int64_t n, const void *bias, int add,
                         int prefetch, const void *ahead_, int64_t ahead_bytes)
{
    const T *const *rows = (const T *const *)rows_;
    T *const *c = (T *const *)c_;
    const int kind = n == NR ? 0 : n > W ? 1 : 2;
    const char *ahead = ahead_;
    const int64_t share = ahead_bytes / ((count + MR - 1) / MR);
    for (; count > 0; count -= MR, rows += MR, c += MR) {
        const int m = count < MR ? (int)count : MR;
        for (int i = 0; i < m; i++)
            prefetch_write(c[i + (count >= 2 * MR ? MR : 0)], at);
        for (const char *end = ahead + share; ahead < end; ahead += 64)
            PREFETCH(ahead);
#define BODY(M, NV, FULL, FETCH, LDB)                                                              \
    product_body(segments, start, length, rows, b, LDB, c, at, M, NV, FULL, n, bias, add, FETCH)
        if (prefetch && count >= MR + TLINE && ldb == NR) {
            if (kind == 2)
                BODY(MR, 1, 0, 1, NR);
            else
                BODY(MR, NV, 0, 1, NR);
            continue;
        }
        if (m == MR && kind == 0 && ldb == NR) {
            BODY(MR, NV, 1, 0, NR);
            continue;
        }
        switch (ldb == NR ? m * 4 + kind : m * 4 + 3) {
#define CALL(M)                                                                                    \
    case M * 4: BODY(M, NV, 1, 0, NR); break;                                                      \
    case M * 4 + 1: BODY(M, NV, 0, 0, NR); break;                                                  \
    case M * 4 + 2: BODY(M, 1, 0, 0, NR); break;                                                   \
    case M * 4 + 3: BODY(M, NV, 1, 0, ldb); break;
            ROW_CASES(CALL)
#undef CALL
#undef BODY
        }
    }
}

#define DOT_ROWS 8

INLINE void dot_body(int64_t segments, const int64_t *start, const int64_t *length,
                     const T *const *rows, const T *b, int64_t ldb, T *const *c, int64_t at,
                     const int m, const int n, const T *bias, int add)
{
    V acc[DOT_ROWS][DOT_COLUMNS];
    UNROLL_FOR(int i = 0; i < m; i++)
        UNROLL_FOR(int j = 0; j < n; j++)
            acc[i][j] = v_set(0);
    for (int64_t s = 0; s < segments; s++) {
        const int64_t depth = length[s];
        int64_t k = 0;
        const T *a[DOT_ROWS];
        UNROLL_FOR(int i = 0; i < m; i++)
            a[i] = rows[i] + start[s];
        for (; k + W <= depth; k += W) {
            V column[DOT_COLUMNS];
            UNROLL_FOR(int j = 0; j < n; j++)
                column[j] = v_loadt(b + j * ldb + k);
            UNROLL_FOR(int i = 0; i < m; i++) {
                const V x = v_loadt(a[i] + k);
                UNROLL_FOR(int j = 0; j < n; j++)
                    acc[i][j] = v_fma(x, column[j], acc[i][j]);
            }
        }
        if (k < depth) {
            const int left = (int)(depth - k);
            UNROLL_FOR(int j = 0; j < n; j++) {
                const V column = v_loadt_part(b + j * ldb + k, left);
                UNROLL_FOR(int i = 0; i < m; i++)
                    acc[i][j] = v_fma(v_loadt_part(a[i] + k, left), column, acc[i][j]);
            }
        }
        b += depth;
    }
    UNROLL_FOR(int i = 0; i < m; i++)
        UNROLL_FOR(int j = 0; j < n; j++) {
            T *p = c[i] + at + j;
            const T value = (T)v_sum(acc[i][j]) + (bias ? bias[j] : 0);
            *p = add ? *p + value : value;
        }
}

/* m rows, n <= DOT_COLUMNS columns; b + j * ldb: column j, the segments behind one another. */
static void dot_rows(int64_t segments, const int64_t *start, const int64_t *length,
                     const void *const *rows_, const void *b, int64_t ldb, void *const *c_,
                     int64_t at, int64_t m, int n, const void *bias, int add)
{
    const T *const *rows = (const T *const *)rows_;
    T *const *c = (T *const *)c_;
    while (m > 0) { /* sums do not depend on the tile's rows */
        int taken = 1;
#define DOT(M, N)                                                                                  \
    (taken = M, dot_body(segments, start, length, rows, b, ldb, c, at, M, N, bias, add))
        if (n == 1 && m >= DOT_ROWS)
            DOT(DOT_ROWS, 1);
        else if (n == 1)
            DOT(1, 1);
        else if (n == 2 && m >= 4)
            DOT(4, 2);
        else if (n == 2)
            DOT(1, 2);
        else if (m >= 4)
            DOT(4, 3);
        else
            DOT(1, 3);
#undef DOT
        rows += taken;
        c += taken;
        m -= taken;
    }
}

/* Rows of c that are taken at once where W values of a lie side by side: whole blocks, if that
 * makes sums enough to keep the units busy. */
#define WHOLE_ROWS (MR / W * W)
#define BLOCK_ROWS (NV * WHOLE_ROWS > 8 ? WHOLE_ROWS : MR)
#define NARROW_ROWS (W > MR ? W : BLOCK_ROWS) /* with one vector of columns */
#define MOST_ROWS (NARROW_ROWS > MR ? NARROW_ROWS : MR)

INLINE void outer_body(int64_t count, const T *const *a, const int64_t *off, const T *b,
                       int64_t ldb, T *c, int64_t ldc, const int m, const int nv, const int part,
                       int64_t n, int add, const int lie, int64_t next)
{
    V acc[MOST_ROWS][NV];
    int64_t o[MOST_ROWS];
    UNROLL_FOR(int i = 0; i < m; i++) {
        o[i] = lie ? i : off[i] - off[0];
        UNROLL_FOR(int v = 0; v < nv; v++)
            acc[i][v] = v_set(0);
    }
    a += count;
    for (int64_t p = -count; p < 0; p++, b += ldb) {
        const T *x = a[p] + off[0];
        if (lie)
            PREFETCH((const char *)x + next);
        V row[NV];
        UNROLL_FOR(int v = 0; v < nv; v++)
            row[v] = part && v == nv - 1 ? v_loadt_part(b + v * W, (int)(n - v * W))
                                         : v_loadt(b + v * W);
        UNROLL_FOR(int i = 0; i < m; i++) {
            const V value = v_set(x[o[i]]);
            UNROLL_FOR(int v = 0; v < nv; v++)
                acc[i][v] = v_fma(value, row[v], acc[i][v]);
        }
    }
    UNROLL_FOR(int i = 0; i < m; i++)
        store_row(acc[i], c + i * ldc, nv, part ? n : nv * W, NULL, add);
}

/* Do the values of a tile's m rows lie side by side? */
INLINE int lie_together(const int64_t *off, int64_t m)
{
    for (int64_t i = 1; i < m; i++)
        if (off[i] != off[0] + i)
            return 0;
    return 1;
}

/* Do rows stand in blocks of W whose values lie side by side? */
INLINE int stand_in_blocks(const int64_t *off, int64_t rows)
{
    int whole = rows % W == 0;
    for (int64_t i = 0; whole && i < rows; i += W)
        whole = lie_together(off + i, W);
    return whole;
}

/* `rows` rows in tiles of nearly the same size; b + p * ldb: n <= NR values. Meanwhile what the
 * next call with another b will read is fetched, and, where rows lie together, what stands `next`
 * bytes behind the values that are read. */
static void outer_rows(int64_t count, const void *const *a_, const int64_t *off, const void *b,
                       int64_t ldb, void *c_, int64_t ldc, int64_t rows, int64_t n, int add,
                       const ahead_t *ahead, int64_t next)
{
    const T *const *a = (const T *const *)a_;
    T *c = c_;
    const int kind = n == NR ? 0 : n > W ? 1 : n == W ? 2 : 3;
    const int64_t most = n <= W && stand_in_blocks(off, rows) ? NARROW_ROWS : MR;
    const int64_t tiles = (rows + most - 1) / most;
    int64_t row = 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const int64_t end_row = rows * (tile + 1) / tiles;
        for (int64_t i = end_row; i < end_row + MR && i < rows; i++)
            prefetch_write(c + i * ldc, 0);
        for (int k = 0; k < 2; k++) {
            const char *p = (const char *)ahead[k].p + ahead[k].bytes * tile / tiles;
            const char *end = (const char *)ahead[k].p + ahead[k].bytes * (tile + 1) / tiles;
            for (; p < end; p += 64)
                PREFETCH(p);
        }
#define BODY(M, NV, PART, LIE)                                                                     \
    outer_body(count, a, off + row, b, ldb, c + row * ldc, ldc, M, NV, PART, n, add, LIE, next)
        const int lie = lie_together(off + row, end_row - row);
        if (NARROW_ROWS > MR && end_row - row == NARROW_ROWS && lie && n <= W)
            BODY(NARROW_ROWS, 1, 1, 1);
        else
            switch ((end_row - row) * 8 + kind + 4 * lie) {
#define CALL(M)                                                                                    \
    case M * 8: BODY(M, NV, 0, 0); break;                                                          \
    case M * 8 + 1: BODY(M, NV, 1, 0); break;                                                      \
    case M * 8 + 2: BODY(M, 1, 0, 0); break;                                                       \
    case M * 8 + 3: BODY(M, 1, 1, 0); break;                                                       \
    case M * 8 + 4: BODY(M, NV, 0, 1); break;                                                      \
    case M * 8 + 5: BODY(M, NV, 1, 1); break;                                                      \
    case M * 8 + 6: BODY(M, 1, 0, 1); break;                                                       \
    case M * 8 + 7: BODY(M, 1, 1, 1); break;
                ROW_CASES(CALL)
#undef CALL
#undef BODY
            }
        row = end_row;
    }
}

/* Pixels ld apart, cut into blocks of channels: to[channel / block][pixel][channel % block], blocks
 * of the same pixel `apart`; zeros fill the last one. block is a multiple of W, or less than W
 * where it holds all channels. */
static void split_pixels(const void *x_, int64_t pixels, int64_t ld, int64_t channels,
                         int64_t block, void *to_, int64_t apart)
{
    const T *x = x_;
    T *to = to_;
    const int64_t whole = block % W ? 0 : channels / block * block;
    if (block == channels && block == ld) {
        memcpy(to, x, (size_t)(pixels * block) * sizeof(T));
        return;
    }
    for (int64_t p = 0; p < pixels; p++, x += ld, to += block) {
        T *out = to;
        int64_t c = 0;
        for (; c < whole; c += block, out += apart)
            for (int64_t i = 0; i < block; i += W)
                v_storet(out + i, v_loadt(x + c + i));
        if (c < channels)
            for (int64_t i = 0; i < block; i++)
                out[i] = c + i < channels ? x[c + i] : 0;
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
