/* The gradients of one channel in float64, where 1 / std times its own square leaves T: inputs of
 * 1e22, or spreads of 1e-20 with eps = 0. Slow, and right wherever dx is a number of T.
 */

/* xhat = (x - mean) / std of the value at i, and what is activated. */
INLINE double careful_xhat(const tensors_t *t, int64_t i, const careful_t *f)
{
    return ((double)s_load((const io_t *)t->x + i) - f->mean) * f->invstd;
}
INLINE double careful_z(const tensors_t *t, int64_t i, const careful_t *f)
{
    const double z = careful_xhat(t, i, f) * f->weight + f->bias;
    return t->residual ? z + (double)s_load((const io_t *)t->residual + i) : z;
}

/* d = dy where act lets it through, and xhat, of the value at i. */
INLINE double careful_value(const tensors_t *t, int64_t i, const careful_t *f, const act_t *act,
                            double *xhat)
{
    const double d = (double)s_load((const io_t *)t->dy + i);
    *xhat = careful_xhat(t, i, f);
    if (act->kind == ACT_NONE || !(careful_z(t, i, f) <= 0))
        return d;
    return act->kind == ACT_RELU ? 0.0 : d * act->slope;
}

/* The sums of d * xhat and of d, which are the gradients of weight and bias. `first` is the index of
 * the channel's first value. */
static void careful_sums(const tensors_t *t, const planes_t *r, int64_t first, const careful_t *f,
                         const act_t *act, double *dweight, double *dbias)
{
    double sum_d = 0.0, sum_d_xhat = 0.0, xhat;
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++) {
            const double d = careful_value(t, first + i * r->stride + j, f, act, &xhat);
            sum_d += d;
            sum_d_xhat += d * xhat;
        }
    *dweight = sum_d_xhat;
    *dbias = sum_d;
}

/* dx = (weight * d - mean_g - xhat * mean_g_xhat) / std, where g is weight * d, and dresidual = d:
 * what is not NULL is written. */
static void careful_gradient(const tensors_t *t, const planes_t *r, int64_t first,
                             const careful_t *f, const act_t *act, double mean_g,
                             double mean_g_xhat)
{
    double xhat;
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++) {
            const int64_t at = first + i * r->stride + j;
            const double d = careful_value(t, at, f, act, &xhat);
            if (t->dresidual)
                s_store((io_t *)t->dresidual + at, (T)d);
            if (t->dx)
                s_store((io_t *)t->dx + at,
                        (T)(f->invstd * (f->weight * d - mean_g - xhat * mean_g_xhat)));
        }
}
