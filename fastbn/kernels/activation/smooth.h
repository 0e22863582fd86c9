/* Activations of a run of numbers whose gradients are computed from x. */
#include "common/loops.h"
#include "common/pointwise.h"

static void smooth(const void *x_, void *y_, int64_t n, int op, double parameter, int stream)
{
    const T *x = x_;
    T *y = y_;
    const V a = v_set((T)parameter);
#define ELU(LOAD) elu(LOAD(x), a)
#define SELU(LOAD) selu(LOAD(x), a)
#define SILU(LOAD) silu(LOAD(x), a)
#define GELU(LOAD) gelu(LOAD(x), a)
#define GELU_TANH(LOAD) gelu_tanh(LOAD(x), a)
#define HARDSIGMOID(LOAD) hardsigmoid(LOAD(x), a)
#define HARDSWISH(LOAD) hardswish(LOAD(x), a)
#define RELU6(LOAD) relu6(LOAD(x), a)
#define SOFTPLUS(LOAD) softplus(LOAD(x), a)
#define MISH(LOAD) mish(LOAD(x), a)
    switch (op) {
    case MAP_ELU: STORE_LOOP(y, n, stream, ELU); break;
    case MAP_SELU: STORE_LOOP(y, n, stream, SELU); break;
    case MAP_SILU: STORE_LOOP(y, n, stream, SILU); break;
    case MAP_GELU: STORE_LOOP(y, n, stream, GELU); break;
    case MAP_GELU_TANH: STORE_LOOP(y, n, stream, GELU_TANH); break;
    case MAP_HARDSIGMOID: STORE_LOOP(y, n, stream, HARDSIGMOID); break;
    case MAP_HARDSWISH: STORE_LOOP(y, n, stream, HARDSWISH); break;
    case MAP_RELU6: STORE_LOOP(y, n, stream, RELU6); break;
    case MAP_SOFTPLUS: STORE_LOOP(y, n, stream, SOFTPLUS); break;
    default: STORE_LOOP(y, n, stream, MISH); break;
    }
#undef ELU
#undef SELU
#undef SILU
#undef GELU
#undef GELU_TANH
#undef HARDSIGMOID
#undef HARDSWISH
#undef RELU6
#undef SOFTPLUS
#undef MISH
}

static void smooth_grad(const void *x_, const void *dy_, void *dx_, int64_t n, int op,
                        double parameter, int stream)
{
    const T *x = x_, *dy = dy_;
    T *dx = dx_;
    const V a = v_set((T)parameter);
#define ELU_GRAD(LOAD) elu_slope(LOAD(x), a) * LOAD(dy)
#define SELU_GRAD(LOAD) selu_slope(LOAD(x), a) * LOAD(dy)
#define SILU_GRAD(LOAD) silu_slope(LOAD(x), a) * LOAD(dy)
#define GELU_GRAD(LOAD) gelu_slope(LOAD(x), a) * LOAD(dy)
#define GELU_TANH_GRAD(LOAD) gelu_tanh_slope(LOAD(x), a) * LOAD(dy)
#define HARDSIGMOID_GRAD(LOAD) hardsigmoid_slope(LOAD(x), a) * LOAD(dy)
#define HARDSWISH_GRAD(LOAD) hardswish_slope(LOAD(x), a) * LOAD(dy)
#define RELU6_GRAD(LOAD) relu6_slope(LOAD(x), a) * LOAD(dy)
#define SOFTPLUS_GRAD(LOAD) softplus_slope(LOAD(x), a) * LOAD(dy)
#define MISH_GRAD(LOAD) mish_slope(LOAD(x), a) * LOAD(dy)
    switch (op) {
    case MAP_ELU: STORE_LOOP(dx, n, stream, ELU_GRAD); break;
    case MAP_SELU: STORE_LOOP(dx, n, stream, SELU_GRAD); break;
    case MAP_SILU: STORE_LOOP(dx, n, stream, SILU_GRAD); break;
    case MAP_GELU: STORE_LOOP(dx, n, stream, GELU_GRAD); break;
    case MAP_GELU_TANH: STORE_LOOP(dx, n, stream, GELU_TANH_GRAD); break;
    case MAP_HARDSIGMOID: STORE_LOOP(dx, n, stream, HARDSIGMOID_GRAD); break;
    case MAP_HARDSWISH: STORE_LOOP(dx, n, stream, HARDSWISH_GRAD); break;
    case MAP_RELU6: STORE_LOOP(dx, n, stream, RELU6_GRAD); break;
    case MAP_SOFTPLUS: STORE_LOOP(dx, n, stream, SOFTPLUS_GRAD); break;
    default: STORE_LOOP(dx, n, stream, MISH_GRAD); break;
    }
#undef ELU_GRAD
#undef SELU_GRAD
#undef SILU_GRAD
#undef GELU_GRAD
#undef GELU_TANH_GRAD
#undef HARDSIGMOID_GRAD
#undef HARDSWISH_GRAD
#undef RELU6_GRAD
#undef SOFTPLUS_GRAD
#undef MISH_GRAD
}
