/* NHWC and (N, C): moments of the channels, which are the columns of rows of pixels; also those of
 * NCHW of small spatial size, where each value of a row is a column. Numbers of a column are arrays
 * of T in the order of the parts (unit.h), padded to whole units; sums are added to float64 every
 * SUM_ROWS rows.
 */

/* For moments, rows are taken STREAMS at a time, `far` values apart: all rows are cut into so many
 * parts. What belongs to a column, its shift and its sums, is loaded once for all of them. Rows
 * left over come by one. */
enum { SUM_STEPS = SUM_ROWS / STREAMS };

/* From one array of a number for every column of a tile to the next, and room for whole units. A
 * load waits for a store shortly before it whose address differs by a multiple of a page: arrays
 * one unit more than that apart would make every load of one wait for the last store to another. */
enum { APART = TILE + STAGGER_BYTES / sizeof(T) };

INLINE void fill(T *to, int64_t n, T value)
{
    for (int64_t j = 0; j < n; j++)
        to[j] = value;
}

/* Add K rows to the sums of their columns. */
INLINE void add_rows(const io_t *x, int64_t far, int64_t columns, T *sum, const int K)
{
    for (int64_t j = 0; j < columns; j += U) {
        const int part = part_of(columns - j);
        unit_t s = u_loadt(sum + j);
        UNROLL_FOR(int k = 0; k < K; k++) {
            const unit_t v = u_load(x + k * far + j, part);
            EACH_PART(p)
                s.p[p] += v.p[p];
        }
        u_storet(sum + j, s);
    }
}

/* The mean of an eighth of the rows at least, or of one of three, in the order of the parts. */
INLINE void sample_rows(const io_t *x, int64_t ld, int64_t rows, int64_t columns, T *shift)
{
    const int64_t steps = rows / STREAMS;
    const int64_t some = steps ? (rows + 8 * STREAMS - 1) / (8 * STREAMS) : 0;
    const T share = (T)1 / (T)(some ? STREAMS * some : 1);
    fill(shift, whole_units(columns), 0);
    for (int64_t i = 0; i < some; i++)
        add_rows(x + i * ld, steps * ld, columns, shift, STREAMS);
    if (some == 0)
        add_rows(x, 0, columns, shift, 1);
    for (int64_t j = 0; j < whole_units(columns); j++)
        shift[j] *= share;
}

/* Add K rows to the sums and sums of squares about shift, and prefetch for what lies `prefetch`
 * further on, if that is not 0. Rows are added up among themselves first: a square that outweighs
 * all others then swallows digits of fewer numbers. In a unit that is there in part, the lanes
 * beyond gather numbers that nobody reads. */
INLINE void add_moments(const io_t *x, int64_t far, int64_t columns, int64_t prefetch,
                        const T *shift, T *sum, T *square, const int K)
{
    int64_t j = 0;
#define ADD(part)                                                                                  \
    do {                                                                                           \
        const unit_t c = u_loadt(shift + j);                                                       \
        unit_t s = u_loadt(sum + j), q = u_loadt(square + j), s1, q1;                              \
        UNROLL_FOR(int k = 0; k < K; k++) {                                                        \
            const unit_t v = u_load(x + k * far + j, part);                                        \
            if (prefetch)                                                                          \
                PREFETCH_NEAR(x + k * far + j + prefetch);                                         \
            EACH_PART(p) {                                                                         \
                const V d = v.p[p] - c.p[p];                                                       \
                s1.p[p] = k ? s1.p[p] + d : d;                                                     \
                q1.p[p] = k ? v_fma(d, d, q1.p[p]) : d * d;                                        \
            }                                                                                      \
        }                                                                                          \
        EACH_PART(p) {                                                                             \
            s.p[p] += s1.p[p];                                                                     \
            q.p[p] += q1.p[p];                                                                     \
        }                                                                                          \
        u_storet(sum + j, s);                                                                      \
        u_storet(square + j, q);                                                                   \
    } while (0)
    for (; j + U <= columns; j += U)
        ADD(0);
    if (j < columns)
        ADD((int)(columns - j));
#undef ADD
}

/* Sums in the order of the parts are added to float64. */
INLINE void add_to_doubles(double *to, T *from, int64_t n)
{
    from_parts(from, n);
    for (int64_t j = 0; j < n; j++)
        to[j] += (double)from[j];
}

/* Mean and sum of squares of every column. columns <= TILE. With `prefetch`, and where rows are
 * longer than that, the same columns of the rows behind are prefetched: no prefetcher follows
 * pieces of rows. */
static void nhwc_moments(const void *x_, int64_t rows, int64_t columns, int64_t ld, int prefetch,
                         double *mean, double *m2)
{
    const io_t *x = x_;
    ON_LINE T room[3 * APART];
    T *shift = room, *s = room + APART, *q = room + 2 * APART;
    const int64_t steps = rows / STREAMS, far = steps * ld, padded = whole_units(columns);
    const double n = (double)rows, share = 1.0 / n;
    int64_t i = 0, j;
    int safe = 1;
    sample_rows(x, ld, rows, columns, shift);
    for (j = 0; j < columns; j++)
        mean[j] = m2[j] = 0.0;
    do {
        const int64_t last = steps - i < SUM_STEPS ? steps : i + SUM_STEPS;
        fill(s, padded, 0);
        fill(q, padded, 0);
        for (; i < last; i++)
            add_moments(x + i * ld, far, columns, prefetch && ld > TILE ? ld : 0, shift, s, q,
                        STREAMS);
        for (int64_t row = STREAMS * steps; i == steps && row < rows; row++)
            add_moments(x + row * ld, 0, columns, 0, shift, s, q, 1);
        add_to_doubles(mean, s, columns);
        add_to_doubles(m2, q, columns);
    } while (i < steps);
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
        const planes_t column = {rows, 1, ld};
        if (!squares_are_safe(q[j]) && s[j] == 0)
            careful_moments(x + j, &column, &mean[j], &m2[j]);
    }
}

/* Merge the moments of n further values of every column into those of the `count` before. */
static void merge_moments(double count, double n, const double *part_mean, const double *part_m2,
                          int64_t columns, double *mean, double *m2)
{
    const double weight = n / (count + n), both = count * weight;
    for (int64_t j = 0; j < columns; j++) {
        const double delta = part_mean[j] - mean[j];
        mean[j] += delta * weight;
        m2[j] += part_m2[j] + delta * delta * both;
    }
}

/* An array of T summed in float64 where the lanes meet. The array is padded with zeros. */
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

/* NCHW of small spatial size: moments of `channels` channels, whose values lie `length` together.
 * channels * length <= TILE. */
static void small_moments(const void *x_, int64_t rows, int64_t channels, int64_t length,
                          int64_t ld, double *mean, double *m2)
{
    ON_LINE T room[3 * APART];
    T *shift = room, *s = room + APART, *q = room + 2 * APART;
    const int64_t columns = channels * length, padded = whole_units(columns);
    double before = 0.0;
    for (int64_t first = 0; first < rows; first += SUM_ROWS) {
        const io_t *x = (const io_t *)x_ + first * ld;
        const int64_t count = rows - first < SUM_ROWS ? rows - first : SUM_ROWS;
        const int64_t steps = count / STREAMS;
        const double n = (double)(count * length);
        sample_rows(x, ld, count, columns, s);
        from_parts(s, padded);
        fill(s + columns, padded - columns, 0);
        for (int64_t k = 0; k < channels; k++)
            fill(shift + k * length, length, (T)(sum_of(s + k * length, length) / (double)length));
        fill(shift + columns, padded - columns, 0);
        to_parts(shift, padded);
        fill(s, padded, 0);
        fill(q, padded, 0);
        for (int64_t i = 0; i < steps; i++)
            add_moments(x + i * ld, steps * ld, columns, 0, shift, s, q, STREAMS);
        for (int64_t row = STREAMS * steps; row < count; row++)
            add_moments(x + row * ld, 0, columns, 0, shift, s, q, 1);
        from_parts(shift, padded);
        from_parts(s, padded);
        from_parts(q, padded);
        for (int64_t k = 0; k < channels; k++) {
            const double sk = sum_of(s + k * length, length), qk = sum_of(q + k * length, length);
            double total = before, block_mean = (double)shift[k * length] + sk / n;
            double block_m2 = qk - sk * (sk / n);
            if (!squares_are_safe((T)qk) && !(qk == 0 && sk == 0)) {
                const planes_t plane = {count, length, ld};
                careful_moments(x + k * length, &plane, &block_mean, &block_m2);
            }
            if (first == 0)
                mean[k] = m2[k] = 0.0;
            merge(&total, &mean[k], &m2[k], n, block_mean, block_m2);
        }
        before += n;
    }
}
