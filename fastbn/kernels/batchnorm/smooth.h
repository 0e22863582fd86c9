/* A smooth activation behind the normalisation: y = act(z), z = (x - centre) * a + b + residual, and
 * in backward dz = dy * act'(z).
 *
 * It costs more arithmetic than memory, so nothing is streamed, and backward computes dz once: the
 * sums and dx are then those of a gradient dz without an activation.
 */

/* y, or where `grad` says so dz, of a unit at x, or of `part` of it. */
INLINE M smooth_unit(const io_t *x, const io_t *dy, const io_t *residual, int part, unit_t c,
                     unit_t a, unit_t b, V parameter, const int op, const int grad)
{
    unit_t v = u_load(x, part), d = v, r = v;
    if (grad)
        d = u_load(dy, part);
    if (residual)
        r = u_load(residual, part);
    EACH_PART(p) {
        const V z = v_fma(v.p[p] - c.p[p], a.p[p], residual ? b.p[p] + r.p[p] : b.p[p]);
        v.p[p] = grad ? smooth_slope(z, parameter, op) * d.p[p] : smooth_value(z, parameter, op);
    }
    return pack(v);
}

#define SMOOTH(x, dy, residual, y, part, c, a, b, op, grad)                                        \
    put(y, smooth_unit(x, (grad) ? (dy) : NULL, residual, part, c, a, b, parameter, op, grad),     \
        part, 0)

/* With `dy`, dz goes to y. */
static void nhwc_smooth(const void *x_, const void *dy_, const void *residual, void *y_,
                        int64_t rows, int64_t columns, int64_t ld, const affines_t *f,
                        const act_t *act)
{
    const io_t *x = x_, *dy = dy_, *res = residual;
    io_t *y = y_;
    const T *c = f->centre, *a = f->a, *b = f->b;
    const V parameter = v_set((T)act->slope);
#define ROWS_OF(op, grad)                                                                          \
    for (int64_t i = 0; i < rows; i++)                                                             \
        for (int64_t j = 0; j < columns; j += U) {                                                 \
            const int64_t at = i * ld + j;                                                         \
            const int part = part_of(columns - j);                                                 \
            SMOOTH(x + at, dy + at, res ? res + at : NULL, y + at, part, u_loadt(c + j),           \
                   u_loadt(a + j), u_loadt(b + j), op, grad);                                      \
        }
#define CALL(op)                                                                                   \
    if (dy)                                                                                        \
        ROWS_OF(op, 1)                                                                             \
    else                                                                                           \
        ROWS_OF(op, 0)
    SMOOTH_DISPATCH(act->smooth, CALL)
#undef CALL
#undef ROWS_OF
}

INLINE void smooth_plane(const io_t *x, const io_t *dy, const io_t *residual, io_t *y,
                         int64_t length, const numbers_t *f, V parameter, const int op,
                         const int grad)
{
    const unit_t c = u_set(f->c), a = u_set(f->a), b = u_set(f->b);
    for (int64_t j = 0; j < length; j += U)
        SMOOTH(x + j, dy + j, residual ? residual + j : NULL, y + j, part_of(length - j), c, a, b,
               op, grad);
}

/* Of channels first to first + channels - 1. With dy, dz goes to y. */
static void nchw_smooth(const tensors_t *t, const planes_t *r, int64_t first, int64_t channels,
                        const affine_t *f_, const act_t *act)
{
    const V parameter = v_set((T)act->slope);
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t k = 0; k < channels; k++) {
            const int64_t at = i * r->stride + (first + k) * r->length;
            const io_t *x = (const io_t *)t->x + at, *dy = t->dy ? (const io_t *)t->dy + at : NULL;
            const io_t *residual = t->residual ? (const io_t *)t->residual + at : NULL;
            io_t *y = (io_t *)t->y + at;
            const numbers_t f = numbers_of(&f_[k]);
#define CALL(op)                                                                                   \
    if (dy)                                                                                        \
        smooth_plane(x, dy, residual, y, r->length, &f, parameter, op, 1);                         \
    else                                                                                           \
        smooth_plane(x, NULL, residual, y, r->length, &f, parameter, op, 0)
            SMOOTH_DISPATCH(act->smooth, CALL)
#undef CALL
        }
}
#undef SMOOTH

/* dz of one channel whose coefficients leave T (see careful.h). */
static void careful_smooth(const tensors_t *t, const planes_t *r, int64_t first, const careful_t *f,
                           const act_t *act)
{
    const V parameter = v_set((T)act->slope);
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++) {
            const int64_t at = first + i * r->stride + j;
            double z = careful_z(t, at, f);
            T slope[W];
            z = z > 1e30 ? 1e30 : z < -1e30 ? -1e30 : z;
#define CALL(op) v_storet(slope, smooth_slope(v_set((T)z), parameter, op))
            SMOOTH_DISPATCH(act->smooth, CALL)
#undef CALL
            s_store((io_t *)t->y + at, slope[0] * s_load((const io_t *)t->dy + at));
        }
}
