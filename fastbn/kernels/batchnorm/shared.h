/* What all kernels of batch normalisation share: moments, gradients, and how variants are made.
 *
 * Moments are taken block by block: the sum and the sum of squares about a shift. The first shift
 * of a channel is the mean of an eighth of what it is used for. However values are
 * distributed, the mean of a share f of them is off the mean of all by at most sqrt((1 - f) / f)
 * standard deviations (Cauchy-Schwarz), here 2.6: so q - s * s / n loses three bits at worst,
 * whatever the offset and wherever outliers stand. Later blocks of a plane take the mean of all
 * before, which is at least half of the values. Blocks are merged in float64 (Chan, Golub & LeVeque
 * 1979). One whose squares leave T's range is redone in float64.
 *
 * `centre` is the mean rounded to T; what the rounding lost is inside b (and k0), computed in
 * float64 by the caller. x - centre is exact where it matters, so large offsets stay harmless.
 *
 * The loops are written once, with the activation and the residual as constants; DISPATCH makes the
 * variants. Runs have variants of their own for memory that streams; what else varies is tested
 * inside the loops, where it costs less than its code would.
 */

enum { BLOCK = 4096 };                     /* values of a block, whose sums are taken in T */
enum { LINE = LINE_BYTES / sizeof(io_t) }; /* values in a cache line */

/* Samples are read STREAMS at a time, in as many places at once: memory answers that faster than
 * one place after another. */
enum { STREAMS = 4 };

#define DISPATCH(CALL)                                                                             \
    switch (act->kind * 2 + (residual != NULL)) {                                                  \
    case ACT_NONE * 2: CALL(ACT_NONE, 0); break;                                                   \
    case ACT_NONE * 2 + 1: CALL(ACT_NONE, 1); break;                                               \
    case ACT_RELU * 2: CALL(ACT_RELU, 0); break;                                                   \
    case ACT_RELU * 2 + 1: CALL(ACT_RELU, 1); break;                                               \
    case ACT_LEAKY * 2: CALL(ACT_LEAKY, 0); break;                                                 \
    default: CALL(ACT_LEAKY, 1); break;                                                            \
    }

INLINE V activate(V z, const int act, V slope)
{
    return act == ACT_RELU ? v_relu(z) : act == ACT_LEAKY ? v_leaky(z, slope) : z;
}

INLINE V activate_grad(V z, V d, const int act, V slope)
{
    return act == ACT_RELU ? v_relu_grad(z, d) : act == ACT_LEAKY ? v_leaky_grad(z, d, slope) : d;
}

INLINE T number(double value) { return plain_nan((T)value); }

/* A coefficient in every lane. */
INLINE V set_of(double value) { return v_set(number(value)); }

INLINE V normal(V x, V c, V a, V b, V slope, const int act)
{
    return activate(v_fma(x - c, a, b), act, slope);
}

/* ---- moments ---- */

/* Are squares of this size safe in T? Else they overflowed, vanished, or hold NaN or Inf. */
INLINE int squares_are_safe(T q)
{
#if defined(FASTBN_F64)
    return q < 1e300 && q > 1e-290;
#else
    return q < 1e37f && q > 1e-30f;
#endif
}

INLINE void merge(double *count, double *mean, double *m2, double n, double block_mean,
                  double block_m2)
{
    double total = *count + n, delta = block_mean - *mean;
    *mean += delta * (n / total);
    *m2 += block_m2 + delta * delta * (*count * (n / total));
    *count = total;
}

static void careful_moments(const io_t *x, const planes_t *r, double *mean, double *m2)
{
    double sum = 0.0, squares = 0.0, rest = 0.0, n = (double)(r->planes * r->length);
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++)
            sum += (double)s_load(x + i * r->stride + j);
    sum /= n;
    for (int64_t i = 0; i < r->planes; i++)
        for (int64_t j = 0; j < r->length; j++) {
            double d = (double)s_load(x + i * r->stride + j) - sum;
            squares += d * d;
            rest += d;
        }
    *mean = sum + rest / n;
    *m2 = squares - rest * (rest / n);
}

/* Sums, lane by lane, of the first n values of the plane at p. */
INLINE V first_sum(const io_t *p, int64_t n)
{
    V s[2] = {v_set(0), v_set(0)};
    for (int64_t j = 0; j < n; j += U) {
        const unit_t v = u_load(p + j, part_of(n - j));
        EACH_PART(k)
            s[PARTS > 1 ? k : j / U & 1] += v.p[k];
    }
    return s[0] + s[1];
}

/* ---- gradients ---- */

/* d = dy where act lets it through, at the pre-activation that forward had; xc is x - centre. */
INLINE V gradient(V xc, V dy, V a, V b, V slope, const int act)
{
    return act == ACT_NONE ? dy : activate_grad(v_fma(xc, a, b), dy, act, slope);
}

/* With frozen statistics dx is a * d, and so an x that is not finite stays out of it. */
INLINE V input_gradient(V xc, V d, V a, V k0, V k1, int frozen)
{
    return frozen ? a * d : v_fma(a, d, v_fma(xc, k1, k0));
}
