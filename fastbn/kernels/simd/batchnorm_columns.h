/* Batch normalisation of columns: what is done to the rows, forward and backward. Coefficients are
 * arrays of T in the order of the parts (unit.h), with room for whole units.
 */

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
#define APPLY(part)                                                                           \
    do {                                                                                      \
        const unit_t c = u_loadt(c_ + j), a = u_loadt(a_ + j), b = u_loadt(b_ + j);           \
        M y_[ROWS];                                                                           \
        UNROLL for (int k = 0; k < K; k++) {                                                  \
            unit_t z = u_load(x + k * ld + j, part), r;                                       \
            if (has_residual)                                                                 \
                r = u_load(residual + k * ld + j, part);                                      \
            EACH_PART(p) z.p[p] = normal(z.p[p], c.p[p], a.p[p],                              \
                                         has_residual ? b.p[p] + r.p[p] : b.p[p], slope, act); \
            y_[k] = pack(z);                                                                  \
        }                                                                                     \
        UNROLL for (int k = 0; k < K; k++)                                                    \
            put(y + k * ld + j, y_[k], part, stream);                                         \
    } while (0)
    while (j + LINE <= columns) {
        if (K == 1) {
            PREFETCH(x + j + ahead);
            if (has_residual)
                PREFETCH(residual + j + ahead);
        }
        UNROLL for (int v = 0; v < LINE; v += U, j += U)
            APPLY(0);
    }
    for (; j + U <= columns; j += U)
        APPLY(0);
    if (j < columns)
        APPLY((int)(columns - j));
#undef APPLY
}

/* Rows can be streamed where all of them begin on a vector's boundary and end on one. */
INLINE int rows_stream(const void *y, int64_t columns, int64_t ld)
{
    const size_t size = U * sizeof(io_t);
    return (uintptr_t)y % size == 0 && columns % U == 0 && ld % U == 0;
}

static void col_apply(const void *x_, const void *residual, void *y_, int64_t rows,
                      int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                      int stream)
{
    const io_t *x = x_, *res = residual;
    io_t *y = y_;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V slope = v_set(plain_nan((T)act->slope));
    stream = stream && rows_stream(y, columns, ld);
    const int64_t steps = rows / ROWS;
    int64_t i = 0;
#define SOME(A, R, K)                                                                         \
    apply_rows(x + i * ld, R ? res + i * ld : NULL, y + i * ld, steps * ld, columns, c, a, b, \
               slope, stream, A, R, K)
#define CALL(A, R)                                                                            \
    for (; i < steps; i++)                                                                    \
        SOME(A, R, ROWS);                                                                     \
    for (i = steps * ROWS; i < rows; i++)                                                     \
        SOME(A, R, 1)
    DISPATCH(CALL)
#undef CALL
#undef SOME
}
