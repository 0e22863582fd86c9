/* Batch normalisation where channels lie side by side (channels-last, (N, C)), and of tiles of very
 * short maps, which are taken as columns too: their moments. Numbers of a column are arrays of T in
 * the order of the parts (unit.h), padded to whole units; sums are added to float64 every SUM_ROWS
 * rows.
 */

/* Sums stay in registers over BLOCK_ROWS rows of a strip of columns, as many as there are registers
 * for. Moments ask for the block of rows that follows: the strips of a block are read out of order,
 * which the machine does not foresee. */
enum { BLOCK_ROWS = 8, STRIP = 4 * W };

/* Add rows to the sums of their columns. */
INLINE void add_rows(const io_t *x, int64_t ld, int64_t rows, int64_t columns, T *sum)
{
    for (int64_t j = 0; j < columns; j += U) {
        const int part = part_of(columns - j);
        unit_t s = u_loadt(sum + j);
        for (int64_t i = 0; i < rows; i++) {
            const unit_t v = u_load(x + i * ld + j, part);
            EACH_PART(p) s.p[p] += v.p[p];
        }
        u_storet(sum + j, s);
    }
}

/* Add rows of a strip of `width` columns to its sums and sums of squares about shift; with `part`,
 * of that many columns, and the lanes beyond gather numbers that nobody reads. */
INLINE void strip_moments(const io_t *x, int64_t ld, int64_t rows, const T *shift, T *sum,
                          T *square, int part, const int width)
{
    unit_t c[STRIP / U], s[STRIP / U], q[STRIP / U];
    UNROLL for (int u = 0; u < width / U; u++) {
        c[u] = u_loadt(shift + u * U);
        s[u] = u_loadt(sum + u * U);
        q[u] = u_loadt(square + u * U);
    }
    for (int64_t i = 0; i < rows; i++, x += ld) {
        UNROLL for (int k = 0; k < width; k += LINE)
            PREFETCH(x + BLOCK_ROWS * ld + k);
        UNROLL for (int u = 0; u < width / U; u++) {
            const unit_t v = u_load(x + u * U, part);
            EACH_PART(p) {
                const V d = v.p[p] - c[u].p[p];
                s[u].p[p] += d;
                q[u].p[p] = v_fma(d, d, q[u].p[p]);
            }
        }
    }
    UNROLL for (int u = 0; u < width / U; u++) {
        u_storet(sum + u * U, s[u]);
        u_storet(square + u * U, q[u]);
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
        for (; j + U <= columns; j += U)
            strip_moments(x + j, ld, some, shift + j, sum + j, square + j, 0, U);
        if (j < columns)
            strip_moments(x + j, ld, some, shift + j, sum + j, square + j, (int)(columns - j), U);
    }
}

/* Sums in the order of the parts are added to float64. */
INLINE void add_to_doubles(double *to, T *from, int64_t n)
{
    from_parts(from, n);
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
    T shift[TILE + U], s[TILE + U], q[TILE + U];
    const int64_t sample = (rows + 7) / 8, padded = whole_units(columns);
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
    from_parts(shift, padded);
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
    T shift[TILE + U], s[TILE + U], q[TILE + U];
    const int64_t columns = maps * length, padded = whole_units(columns);
    double before = 0.0;
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const io_t *x = (const io_t *)x_ + first * ld;
        const int64_t count = rows - first < SUM_ROWS ? rows - first : SUM_ROWS;
        const int64_t sample = (count + 7) / 8;
        const double n = (double)(count * length);
        fill(s, padded, 0);
        fill(q, padded, 0);
        add_rows(x, ld, sample, columns, s);
        from_parts(s, padded);
        for (int64_t k = 0; k < maps; k++)
            fill(shift + k * length, length,
                 (T)(sum_of(s + k * length, length) / (double)(sample * length)));
        fill(shift + columns, padded - columns, 0);
        to_parts(shift, padded);
        fill(s, padded, 0);
        add_moments(x, ld, count, columns, shift, s, q);
        from_parts(shift, padded);
        from_parts(s, padded);
        from_parts(q, padded);
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
