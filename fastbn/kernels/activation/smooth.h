/* Activations of a run of numbers whose gradients are computed from x. */
#include "common/loops.h"
#include "common/pointwise.h"

static void smooth(const void *x_, void *y_, int64_t n, int op, double parameter, int stream)
{
    const T *x = x_;
    T *y = y_;
    const V a = v_set((T)parameter);
#define VALUE(LOAD) smooth_value(LOAD(x), a, its)
#define CALL(OP)                                                                                   \
    do {                                                                                           \
        const int its = OP;                                                                        \
        STORE_LOOP(y, n, stream, VALUE);                                                           \
    } while (0)
    SMOOTH_DISPATCH(op, CALL)
#undef CALL
#undef VALUE
}

static void smooth_grad(const void *x_, const void *dy_, void *dx_, int64_t n, int op,
                        double parameter, int stream)
{
    const T *x = x_, *dy = dy_;
    T *dx = dx_;
    const V a = v_set((T)parameter);
#define GRADIENT(LOAD) smooth_slope(LOAD(x), a, its) * LOAD(dy)
#define CALL(OP)                                                                                   \
    do {                                                                                           \
        const int its = OP;                                                                        \
        STORE_LOOP(dx, n, stream, GRADIENT);                                                       \
    } while (0)
    SMOOTH_DISPATCH(op, CALL)
#undef CALL
#undef GRADIENT
}
