/* Leaky ReLU of rows whose every channel has a slope of its own. */
#include "common/loops.h"

static void prelu(const void *x_, const void *w_, void *y_, int64_t rows, int64_t columns)
{
    const T *x = x_, *w = w_;
    T *y = y_;
    for (int64_t i = 0; i < rows; i++, x += columns, y += columns) {
#define SLOPED(LOAD) v_leaky(LOAD(x), LOAD(w))
        STORE_LOOP(y, columns, 0, SLOPED);
#undef SLOPED
    }
}

/* dx = dy where x > 0, else dy w; dw += the sum over the rows of dy x where x <= 0 */
static void prelu_grad(const void *x_, const void *w_, const void *dy_, void *dx_, double *dw,
                       int64_t rows, int64_t columns)
{
    const T *x = x_, *w = w_, *dy = dy_;
    T *dx = dx_;
    for (int64_t i = 0; i < rows; i++, x += columns, dy += columns, dx += columns) {
        int64_t j = 0;
#if FASTBN_VECTORS
        for (; j + W <= columns; j += W) {
            VWIDE sum;
            memcpy(&sum, dw + j, sizeof sum);
            const V part = v_where(ALL_OF(x) > 0, v_set(0), ALL_OF(dy) * ALL_OF(x));
            sum += __builtin_convertvector(part, VWIDE);
            memcpy(dw + j, &sum, sizeof sum);
        }
#endif
        for (; j < columns; j++)
            dw[j] += x[j] > 0 ? 0.0 : (double)(dy[j] * x[j]);
#define SLOPED(LOAD) v_leaky_grad(LOAD(x), LOAD(dy), LOAD(w))
        STORE_LOOP(dx, columns, 0, SLOPED);
#undef SLOPED
    }
}
