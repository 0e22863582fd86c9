/* An activation behind the normalisation of rows, and a sum in front of it. */

INLINE V act_value(V z, V parameter, const int op)
{
    return op == MAP_RELU    ? v_relu(z)
           : op == MAP_LEAKY ? v_leaky(z, parameter)
                             : smooth_value(z, parameter, op);
}

INLINE V act_gradient(V z, V d, V parameter, const int op)
{
    return op == MAP_RELU    ? v_relu_grad(z, d)
           : op == MAP_LEAKY ? v_leaky_grad(z, d, parameter)
                             : smooth_slope(z, parameter, op) * d;
}

INLINE void activated(const io_t *x, const io_t *dy, io_t *y, int64_t n, const row_t *f,
                      const T *weight, const T *bias, V parameter, int stream, const int op,
                      const int grad)
{
    const V c = v_set((T)f->centre), a = v_set(plain_nan((T)f->a)), e = v_set(plain_nan((T)f->e));
    for (int64_t j = 0; j < n; j += U) {
        const int part = part_of(n - j);
        const unit_t w = u_loadt(weight + j), b = u_loadt(bias + j);
        unit_t v = u_load(x + j, part), d = v;
        if (grad)
            d = u_load(dy + j, part);
        EACH_PART(p) {
            const V z = v_fma(v_fma(v.p[p] - c, a, e), w.p[p], b.p[p]);
            v.p[p] = grad ? act_gradient(z, d.p[p], parameter, op) : act_value(z, parameter, op);
        }
        put(y + j, pack(v), part, stream);
    }
}

static void rows_activated(const void *x_, const void *dy_, void *y_, int64_t rows, int64_t n,
                           const row_t *f, const void *weight, const void *bias, int op,
                           double parameter_, int stream)
{
    const io_t *x = x_, *dy = dy_;
    io_t *y = y_;
    const V parameter = v_set((T)parameter_);
    stream = stream && (uintptr_t)y % (U * sizeof(io_t)) == 0 && n % U == 0;
#define CALL(OP)                                                                                   \
    for (int64_t i = 0; i < rows; i++)                                                             \
        if (dy)                                                                                    \
            activated(x + i * n, dy + i * n, y + i * n, n, f + i, weight, bias, parameter, 0, OP,  \
                      1);                                                                          \
        else                                                                                       \
            activated(x + i * n, NULL, y + i * n, n, f + i, weight, bias, parameter, stream, OP, 0)
    switch (op) {
    case MAP_RELU: CALL(MAP_RELU); break;
    case MAP_LEAKY: CALL(MAP_LEAKY); break;
    default: SMOOTH_DISPATCH(op, CALL) break;
    }
#undef CALL
}

static void add(const void *x_, const void *residual_, void *sum_, void *far_, int64_t n)
{
    const io_t *x = x_, *residual = residual_;
    io_t *sum = sum_, *far = far_;
    const int stream = (uintptr_t)far % (U * sizeof(io_t)) == 0;
    for (int64_t j = 0; j < n; j += U) {
        const int part = part_of(n - j);
        unit_t v = u_load(x + j, part);
        const unit_t r = u_load(residual + j, part);
        EACH_PART(p)
            v.p[p] += r.p[p];
        const M m = pack(v);
        put(sum + j, m, part, 0);
        if (far)
            put(far + j, m, part, stream);
    }
}
