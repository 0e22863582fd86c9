/* NCHW: the moments of channels (see nchw_forward.h). What comes first is used
 * by backward, too.
 *
 * A plane's values are taken in units: those of a channel alone begin with the plane, those of a
 * group where the units of its row do, so that they are aligned in memory, and some belong to two
 * planes. Row i of STREAMS neighbouring rows goes into the i-th sums. Short planes of a single
 * sample are taken one by one.
 */

enum { AHEAD = 1024 / sizeof(io_t) }; /* how far ahead is prefetched what no cache holds */

/* Two partial sums for each of STREAMS lines: of values and of products. */
typedef struct {
    V a[STREAMS], b[STREAMS];
} sums_t;

INLINE void clear(sums_t *s)
{
    for (int k = 0; k < STREAMS; k++)
        s->a[k] = s->b[k] = v_set(0);
}
INLINE V sum_a(const sums_t *s) { return (s->a[0] + s->a[1]) + (s->a[2] + s->a[3]); }
INLINE V sum_b(const sums_t *s) { return (s->b[0] + s->b[1]) + (s->b[2] + s->b[3]); }

INLINE unit_t about(const io_t *x, V centre, int part)
{
    unit_t u = u_load(x, part);
    EACH_PART(p)
        u.p[p] -= centre;
    return u;
}

/* Add a unit, but for what belongs to other planes (see EACH_OF_GROUP), to two sums. */
INLINE void add_unit(const io_t *x, V shift, int head, int part, V *a, V *b)
{
    unit_t d = about(x, shift, part);
    if (part)
        d = u_where_first(part, d, u_set(0));
    if (head)
        d = u_where_first(head, u_set(0), d);
    EACH_PART(p) {
        *a += d.p[p];
        *b = v_fma(d.p[p], d.p[p], *b);
    }
}

INLINE void moments_of(const io_t *x, const io_t *residual, int64_t far, int64_t n, V shift,
                       sums_t *m, const int rows, const int prefetch)
{
    sums_t s = *m;
#define TAKE(k, row, j, part, begins)                                                              \
    do {                                                                                           \
        if (prefetch && (begins)) {                                                                \
            PREFETCH_NEAR(x + (row) * far + (j) + AHEAD);                                          \
            if (residual)                                                                          \
                PREFETCH(residual + (row) * far + (j));                                            \
        }                                                                                          \
        add_unit(x + (row) * far + (j), shift, 0, part, &s.a[k], &s.b[k]);                         \
    } while (0)
    EACH_LINE(n, rows, TAKE);
#undef TAKE
    *m = s;
}

INLINE void group_moments(const io_t *x, const io_t *residual, int64_t far, int64_t length,
                          int64_t channels, const T *shift, sums_t *m, const int rows,
                          const int prefetch)
{
    for (int64_t k = 0; k < channels; k++) {
        const V c = v_set(shift[k]);
        sums_t s = m[k];
#define TAKE(row, j, head, part)                                                                   \
    do {                                                                                           \
        if (prefetch) {                                                                            \
            PREFETCH_NEAR(x + (row) * far + (j) + AHEAD);                                          \
            if (residual)                                                                          \
                PREFETCH(residual + (row) * far + (j));                                            \
        }                                                                                          \
        add_unit(x + (row) * far + (j), c, head, part, &s.a[row], &s.b[row]);                      \
    } while (0)
        EACH_OF_GROUP(k, length, rows, TAKE);
#undef TAKE
        m[k] = s;
    }
}

/* Add n values of every channel of a group, in `rows` rows (STREAMS, or 1), `far` apart, to their
 * moments about `shift`. With `prefetch`, what comes next is fetched ahead, and what the next
 * sweep will read of the residual. */
static NOINLINE void take_moments(const io_t *x, const io_t *residual, int64_t far, int64_t n,
                                  int64_t channels, const T *shift, sums_t *m, int64_t rows,
                                  int prefetch)
{
#define CALL(ROWS, FETCH)                                                                          \
    if (channels == 1)                                                                             \
        moments_of(x, residual, far, n, v_set(*shift), m, ROWS, FETCH);                            \
    else                                                                                           \
        group_moments(x, residual, far, n, channels, shift, m, ROWS, FETCH)
    if (rows != STREAMS)
        CALL(1, 0);
    else if (prefetch)
        CALL(STREAMS, 1);
    else
        CALL(STREAMS, 0);
#undef CALL
}

/* The mean of the first eighth of a block of planes. */
INLINE T sample_mean(const io_t *x, const planes_t *block)
{
    const int64_t planes = (block->planes + 7) / 8;
    const int64_t n = block->planes > 1 ? block->length : (block->length + 7) / 8;
    V sum = v_set(0);
    for (int64_t i = 0; i < planes; i++)
        sum += first_sum(x + i * block->stride, n);
    return (T)(v_sum(sum) / (double)(planes * n));
}

/* The sums of a block about shift in float64. */
static void wide_sums(const io_t *x, const planes_t *block, T shift, double *sum, double *square)
{
    double s[W] = {0}, q[W] = {0};
    for (int64_t i = 0; i < block->planes; i++)
        for (int64_t j = 0; j < block->length; j += U) {
            const int part = part_of(block->length - j);
            unit_t v = u_load(x + i * block->stride + j, part);
            if (part)
                v = u_where_first(part, v, u_set(shift));
            EACH_PART(p)
                v_add_squares(s, q, v.p[p], shift);
        }
    *sum = sum_lanes(s);
    *square = sum_lanes(q);
}

enum { FEW = 16 }; /* additions to a lane, whose rounding does not add up to much */

/* Merge a block's moments, taken about `shift`, into those of the `count` values before.
 *
 * A value far from all others has a square that swallows digits of those added to it, in the same
 * way again and again. It shows in its lane; such a block is taken in float64. */
INLINE void merge_block(const io_t *x, const planes_t *block, const sums_t *m, T shift,
                        double count, double *mean, double *m2)
{
    const double n = (double)(block->planes * block->length);
    const V b = sum_b(m);
    double s = v_sum(sum_a(m)), q = v_sum(b);
    if (sizeof(T) < sizeof(double) && n > FEW * W && (double)v_top(b) * W > 2 * q &&
        squares_are_safe((T)q))
        wide_sums(x, block, shift, &s, &q);
    double block_mean = (double)shift + s / n, block_m2 = q - s * (s / n);
    if (!squares_are_safe((T)q) && !(q == 0 && s == 0))
        careful_moments(x, block, &block_mean, &block_m2);
    merge(&count, mean, m2, n, block_mean, block_m2);
}

/* May the planes of a single sample be taken one by one? */
INLINE int are_short(const planes_t *r)
{
    return r->planes == 1 && r->length >= U && r->length <= BLOCK;
}

/* The moments of neighbouring channels of a single sample: of one short plane each. */
static NOINLINE void row_moments(const io_t *x, int64_t length, int64_t channels, double *mean,
                                 double *m2)
{
    const planes_t plane = {1, length, 0};
    for (int64_t k = 0; k < channels; k++, x += length) {
        const T shift = sample_mean(x, &plane);
        const V c = v_set(shift);
        sums_t s;
        clear(&s);
#define TAKE(j, head, i) add_unit(x + (j), c, head, 0, &s.a[i], &s.b[i])
        EACH_OF_PLANE(length, TAKE);
#undef TAKE
        mean[k] = m2[k] = 0.0;
        merge_block(x, &plane, &s, shift, 0.0, &mean[k], &m2[k]);
    }
}
