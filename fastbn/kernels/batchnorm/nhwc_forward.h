/* NHWC, forward: normalise rows, once their statistics are known
 * (nhwc_moments.h). Coefficients are arrays of T in the order of the parts (unit.h),
 * with room for whole units.
 */

/* Rows are taken STREAMS at a time as for their moments, if there are registers for a cache line of
 * each, else fewer. All are loaded before the first is stored: a load waits for a store before it
 * whose address differs by a multiple of 4096, as that of rows often does. Whole lines are stored
 * together, as those that bypass the cache must be. A set of the first cache has room for eight
 * lines that are a page apart: backward, with three arrays, takes two rows, and so does what does
 * not bypass the cache. Backward from memory takes one (see nhwc_backward.h). */
enum {
    LINE_UNITS = LINE > U ? LINE / U : 1,
    STREAM_ROWS = LINE_UNITS > 8 ? 1
    : 8 / LINE_UNITS < STREAMS   ? 8 / LINE_UNITS
                                 : STREAMS,
    ROWS = STREAM_ROWS < 2 ? STREAM_ROWS : 2
};

INLINE void apply_rows(const io_t *x, const io_t *residual, io_t *y, int64_t far, int64_t columns,
                       const T *c_, const T *a_, const T *b_, V slope, int stream, const int act,
                       const int has_residual, const int K)
{
    int64_t j = 0;
#define APPLY(units, part)                                                                         \
    do {                                                                                           \
        M m[STREAM_ROWS][LINE_UNITS];                                                              \
        UNROLL_FOR(int u = 0; u < units; u++) {                                                    \
            const int64_t at = j + u * U;                                                          \
            const unit_t c = u_loadt(c_ + at), a = u_loadt(a_ + at), b = u_loadt(b_ + at);         \
            UNROLL_FOR(int k = 0; k < K; k++) {                                                    \
                unit_t z = u_load(x + k * far + at, part), r;                                      \
                if (has_residual)                                                                  \
                    r = u_load(residual + k * far + at, part);                                     \
                EACH_PART(p)                                                                       \
                    z.p[p] = normal(z.p[p], c.p[p], a.p[p],                                        \
                                    has_residual ? b.p[p] + r.p[p] : b.p[p], slope, act);          \
                m[k][u] = pack(z);                                                                 \
            }                                                                                      \
        }                                                                                          \
        UNROLL_FOR(int k = 0; k < K; k++)                                                          \
            UNROLL_FOR(int u = 0; u < units; u++)                                                  \
                put(y + k * far + j + u * U, m[k][u], part, stream);                               \
    } while (0)
    for (; j + LINE <= columns; j += LINE)
        APPLY(LINE_UNITS, 0);
    for (; j + U <= columns; j += U)
        APPLY(1, 0);
    if (j < columns)
        APPLY(1, (int)(columns - j));
#undef APPLY
}

/* Rows can be streamed where all of them begin on a vector's boundary and end on one. */
INLINE int rows_stream(const void *y, int64_t columns, int64_t ld)
{
    const size_t size = U * sizeof(io_t);
    return (uintptr_t)y % size == 0 && columns % U == 0 && ld % U == 0;
}

static void nhwc_forward(const void *x_, const void *residual, void *y_, int64_t rows,
                         int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                         int stream)
{
    const io_t *x = x_, *res = residual;
    io_t *y = y_;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = set_of(act->slope);
    stream = stream && rows_stream(y, columns, ld);
    int64_t i = 0;
#define SOME(A, R, K)                                                                              \
    apply_rows(x + i * ld, R ? res + i * ld : NULL, y + i * ld, rows / (K) * ld, columns, c, a, b, \
               slope, stream, A, R, K)
#define CALL(A, R)                                                                                 \
    for (; stream && i < rows / STREAM_ROWS; i++)                                                  \
        SOME(A, R, STREAM_ROWS);                                                                   \
    for (; !stream && i < rows / ROWS; i++)                                                        \
        SOME(A, R, ROWS);                                                                          \
    for (i *= stream ? STREAM_ROWS : ROWS; i < rows; i++)                                          \
    SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
}
