/* Statistics and coefficients of columns: from sums in float64 to arrays of T. */

/* From the sums of squares about the mean: the variance, and 1 / sqrt(var + eps). */
static void find_invstd(int64_t n, double count, double eps, double *var, double *invstd)
{
    for (int64_t j = 0; j < n; j++) {
        var[j] /= count;
        invstd[j] = 1.0 / sqrt(var[j] + eps);
    }
}

/* running = (1 - momentum) * running + momentum * (scale * batch) */
static void move_running(int64_t n, double momentum, double scale, const double *batch,
                         void *running_)
{
    T *running = running_;
    for (int64_t j = 0; j < n; j++)
        running[j] = (T)((1.0 - momentum) * (double)running[j] + momentum * (batch[j] * scale));
}

/* The statistics of inference: running ones, in float64. */
static void read_running(int64_t n, double eps, const void *running_mean, const void *running_var,
                         double *mean, double *invstd)
{
    const T *from = running_mean, *var = running_var;
    for (int64_t j = 0; j < n; j++)
        mean[j] = (double)from[j];
    for (int64_t j = 0; j < n; j++)
        invstd[j] = 1.0 / sqrt((double)var[j] + eps);
}

/* y = (x - mean) * invstd * weight + bias about the rounded mean; weight and bias may be NULL.
 * What does not change in a loop is tested before it, so that every loop is one of vectors. */
static void find_affine(int64_t n, const double *mean, const double *invstd, const void *weight_,
                        const void *bias_, const affines_t *f)
{
    const T *weight = weight_, *bias = bias_;
    T *centre = (T *)f->centre, *a = (T *)f->a, *b = (T *)f->b;
    for (int64_t j = 0; j < n; j++)
        centre[j] = (T)mean[j];
    if (weight)
        for (int64_t j = 0; j < n; j++)
            a[j] = (T)((double)weight[j] * invstd[j]);
    else
        for (int64_t j = 0; j < n; j++)
            a[j] = (T)invstd[j];
    /* what the rounding of the mean lost goes into b */
    if (bias)
        for (int64_t j = 0; j < n; j++)
            b[j] = (T)((double)bias[j] + ((double)centre[j] - mean[j]) * (double)a[j]);
    else
        for (int64_t j = 0; j < n; j++)
            b[j] = (T)(((double)centre[j] - mean[j]) * (double)a[j]);
}

/* The terms of dx = a * (d - mean(d) - xhat * mean(d * xhat)), with the sums of d and of
 * d * (x - centre), and the gradients of weight and bias where they are not NULL. */
static void gradient_terms(int64_t n, double count, const double *mean, const double *invstd,
                           const double *sum_d, double *sum_dx, const affines_t *f, void *dweight_,
                           void *dbias_, int frozen)
{
    T *dweight = dweight_, *dbias = dbias_;
    const T *centre = f->centre, *a = f->a;
    T *k0 = (T *)f->k0, *k1 = (T *)f->k1;
    const double share = 1.0 / count;
    for (int64_t j = 0; j < n; j++)
        sum_dx[j] += ((double)centre[j] - mean[j]) * sum_d[j];
    if (dweight)
        for (int64_t j = 0; j < n; j++)
            dweight[j] = (T)(sum_dx[j] * invstd[j]);
    if (dbias)
        for (int64_t j = 0; j < n; j++)
            dbias[j] = (T)sum_d[j];
    if (frozen) {
        fill(k0, n, 0);
        fill(k1, n, 0);
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        const double aj = (double)a[j], slope = -aj * invstd[j] * invstd[j] * (sum_dx[j] * share);
        k1[j] = (T)slope;
        k0[j] = (T)(slope * ((double)centre[j] - mean[j]) - aj * (sum_d[j] * share));
    }
}

/* Put coefficients of n columns into the order of the parts, or back to that of the columns; there
 * is room for whole units, and what is behind n becomes 0. */
static void order_parts(int64_t n, const affines_t *f, int back)
{
    T *const arrays[] = {(T *)f->centre, (T *)f->a, (T *)f->b, (T *)f->k0, (T *)f->k1};
    for (int i = 0; PARTS > 1 && i < 5; i++) {
        T *values = arrays[i];
        if (!values)
            continue;
        if (back) {
            from_parts(values, n);
            continue;
        }
        for (int64_t j = 0; j < n; j++)
            values[j] = plain_nan(values[j]);
        fill(values + n, whole_units(n) - n, 0);
        to_parts(values, n);
    }
}

/* NCHW of small spatial size: the coefficients of channels, one for every value. */
static void small_spread(const affine_t *f, int64_t channels, int64_t length, const affines_t *to)
{
    for (int64_t k = 0; k < channels; k++) {
        const int64_t at = k * length;
        fill((T *)to->centre + at, length, (T)f[k].centre);
        fill((T *)to->a + at, length, (T)f[k].a);
        fill((T *)to->b + at, length, (T)f[k].b);
        if (to->k0) {
            fill((T *)to->k0 + at, length, (T)f[k].k0);
            fill((T *)to->k1 + at, length, (T)f[k].k1);
        }
    }
    order_parts(channels * length, to, 0);
}
