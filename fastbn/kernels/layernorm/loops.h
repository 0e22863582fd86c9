/* Layer normalisation of rows whose statistics are known: forward, and backward with its sums. */

enum { SUM_VALUES = 4096 }; /* of a row, whose sums are taken in T */

static void prepare(const void *values, double fill, int64_t n, void *to_)
{
    T *to = to_;
    const int64_t whole = whole_units(n);
    if (values)
        memcpy(to, values, (size_t)n * sizeof(T));
    for (int64_t j = 0; j < n; j++)
        to[j] = values ? plain_nan(to[j]) : (T)fill;
    for (int64_t j = n; j < whole; j++)
        to[j] = 0;
    to_parts(to, whole);
}

/* ---- forward ---- */

static void rows_forward(const void *x_, void *y_, int64_t rows, int64_t n, const row_t *f,
                         const void *weight_, const void *bias_, int stream)
{
    const T *weight = weight_, *bias = bias_;
    stream = stream && (uintptr_t)y_ % (U * sizeof(io_t)) == 0 && n % U == 0;
    for (int64_t i = 0; i < rows; i++) {
        const io_t *x = (const io_t *)x_ + i * n;
        io_t *y = (io_t *)y_ + i * n;
        const V c = v_set((T)f[i].centre), a = v_set(plain_nan((T)f[i].a));
        const V e = v_set(plain_nan((T)f[i].e));
        for (int64_t j = 0; j < n; j += U) {
            const int part = part_of(n - j);
            const unit_t w = u_loadt(weight + j), b = u_loadt(bias + j);
            unit_t v = u_load(x + j, part);
            EACH_PART(p)
                v.p[p] = v_fma(v_fma(v.p[p] - c, a, e), w.p[p], b.p[p]);
            put(y + j, pack(v), part, stream);
        }
    }
}

/* ---- backward ---- */

/* The means of g and g * xhat of a row. */
INLINE void means_of(const io_t *x, const io_t *dy, int64_t n, const row_t *f, const T *weight,
                     double *mean_g, double *mean_gx)
{
    const V c = v_set((T)f->centre), a = v_set((T)f->a), e = v_set((T)f->e);
    double sum_g = 0.0, sum_gx = 0.0;
    for (int64_t j = 0; j < n;) {
        const int64_t last = n - j < SUM_VALUES ? n : j + SUM_VALUES;
        V s[2] = {v_set(0), v_set(0)}, q[2] = {v_set(0), v_set(0)};
        for (int odd = 0; j < last; j += U, odd = !odd) {
            const int part = part_of(n - j);
            const unit_t d = u_load(dy + j, part), w = u_loadt(weight + j);
            unit_t v = u_load(x + j, part);
            if (part) /* beyond the tail d and w are 0; 0 - centre times a could overflow */
                v = u_where_first(part, v, (unit_t)u_set((T)f->centre));
            EACH_PART(p) {
                const int k = PARTS > 1 ? p : odd;
                const V g = d.p[p] * w.p[p];
                s[k] += g;
                q[k] = v_fma(g, v_fma(v.p[p] - c, a, e), q[k]);
            }
        }
        sum_g += v_sum(s[0] + s[1]);
        sum_gx += v_sum(q[0] + q[1]);
    }
    *mean_g = sum_g / (double)n;
    *mean_gx = sum_gx / (double)n;
}

/* dx of K rows, and what they add to the sums of the columns. All rows are read before one is
 * written: where rows are a multiple of a page, a load would wait for the store just before it. */
INLINE void gradient_rows(const io_t *x, const io_t *dy, io_t *dx, int64_t n, const row_t *f,
                          const T *k0_, const T *k1_, const T *weight, T *dw, T *db, int stream,
                          const int K)
{
    for (int64_t j = 0; j < n; j += U) {
        const int part = part_of(n - j);
        const unit_t w = u_loadt(weight + j);
        unit_t sw = u_loadt(dw + j), sb = u_loadt(db + j);
        M rows[ROWS_AT_ONCE];
        UNROLL_FOR(int k = 0; k < K; k++) {
            const V c = v_set((T)f[k].centre), a = v_set((T)f[k].a), e = v_set((T)f[k].e);
            const V k0 = v_set(k0_[k]), k1 = v_set(k1_[k]);
            unit_t v = u_load(x + k * n + j, part);
            const unit_t d = u_load(dy + k * n + j, part);
            EACH_PART(p) {
                const V xhat = v_fma(v.p[p] - c, a, e);
                sw.p[p] = v_fma(d.p[p], xhat, sw.p[p]);
                sb.p[p] += d.p[p];
                v.p[p] = v_fma(d.p[p] * w.p[p], a, v_fma(xhat, k1, k0));
            }
            rows[k] = pack(v);
        }
        UNROLL_FOR(int k = 0; dx && k < K; k++)
            put(dx + k * n + j, rows[k], part, stream);
        u_storet(dw + j, sw);
        u_storet(db + j, sb);
    }
}

static void rows_backward(const void *x_, const void *dy_, void *dx_, int64_t rows, int64_t n,
                          const row_t *f, const void *weight_, int rms, void *room, double *dweight,
                          double *dbias, int stream)
{
    const io_t *x = x_, *dy = dy_;
    io_t *dx = dx_;
    const T *weight = weight_;
    const int64_t whole = whole_units(n);
    T *dw = room, *db = dw + whole;
    memset(dw, 0, (size_t)(2 * whole) * sizeof(T));
    stream = stream && dx && (uintptr_t)dx % (U * sizeof(io_t)) == 0 && n % U == 0;
    for (int64_t i = 0, some; i < rows; i += some) {
        some = rows - i < ROWS_AT_ONCE ? 1 : ROWS_AT_ONCE;
        const int64_t at = i * n;
        T k0[ROWS_AT_ONCE], k1[ROWS_AT_ONCE];
        for (int64_t k = 0; k < some; k++) {
            double mean_g = 0.0, mean_gx = 0.0;
            if (dx)
                means_of(x + at + k * n, dy + at + k * n, n, f + i + k, weight, &mean_g, &mean_gx);
            k0[k] = rms ? 0 : plain_nan((T)(-f[i + k].a * mean_g));
            k1[k] = plain_nan((T)(-f[i + k].a * mean_gx));
        }
        if (some == 1)
            gradient_rows(x + at, dy + at, dx ? dx + at : NULL, n, f + i, k0, k1, weight, dw, db,
                          stream, 1);
        else
            gradient_rows(x + at, dy + at, dx ? dx + at : NULL, n, f + i, k0, k1, weight, dw, db,
                          stream, ROWS_AT_ONCE);
    }
    from_parts(dw, whole);
    from_parts(db, whole);
    for (int64_t j = 0; dweight && j < n; j++)
        dweight[j] += (double)dw[j];
    for (int64_t j = 0; dbias && j < n; j++)
        dbias[j] += (double)db[j];
}
