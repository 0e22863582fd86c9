/* The gradients of one channel in float64, where 1 / std times its own square leaves T: inputs of
 * 1e22, or spreads of 1e-20 with eps = 0. Slow, and right wherever dx is a number of T.
 */

/* d = dy where act lets it through, and xhat = (x - mean) / std, of the value at i. */
INLINE double careful_value(const tensors_t *t, int64_t i, const careful_t *f, const act_t *act,
                            double *xhat)
{
    const double d = (double)s_load((const io_t *)t->dy + i);
    double z = ((double)s_load((const io_t *)t->x + i) - f->mean) * f->invstd;
    *xhat = z;
    z = z * f->weight + f->bias;
    if (t->residual)
        z += (double)s_load((const io_t *)t->residual + i);
    if (act->kind == ACT_NONE || !(z <= 0))
        return d;
    return act->kind == ACT_RELU ? 0.0 : d * act->slope;
}

/* first: the index of the channel's first value. dx and dresidual are written where they are not
 * NULL; the gradients of weight and bias are the sums. */
static void careful_gradient(const tensors_t *t, const planes_t *r, int64_t first,
                             const careful_t *f, const act_t *act, int frozen, double *dweight,
                             double *dbias)
{
    const double n = (double)(r->planes * r->length), a = f->weight * f->invstd;
    double sum_d = 0.0, sum_d_xhat = 0.0, xhat;
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++) {
            const double d = careful_value(t, first + i * r->stride + j, f, act, &xhat);
            sum_d += d;
            sum_d_xhat += d * xhat;
        }
    *dweight = sum_d_xhat;
    *dbias = sum_d;
    if (!t->dx && !t->dresidual)
        return;
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++) {
            const int64_t at = first + i * r->stride + j;
            const double d = careful_value(t, at, f, act, &xhat);
            if (t->dresidual)
                s_store((io_t *)t->dresidual + at, (T)d);
            if (t->dx)
                s_store((io_t *)t->dx + at,
                        (T)(a * (frozen ? d : d - sum_d / n - xhat * (sum_d_xhat / n))));
        }
}
