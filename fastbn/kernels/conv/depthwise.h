/* Depthwise convolution: every channel sees itself alone, so that vectors run along the channels.
 *
 * x[t] points at what the first pixel of a run sees under tap t, pixels x_step apart; w[t] and
 * dw[t] at the tap's weights. Taps that lie in the padding are left out by the caller.
 */
#include "common/vec.h"

#define DEPTH_PIXELS 8
#define DEPTH_TAPS 9
#define LOAD_PART(p) (part ? v_loadt_part(p, part) : v_loadt(p))

INLINE void depth_body(int64_t taps, const T *const *x, const T *const *w, int64_t x_step, T *y,
                       int64_t y_step, int64_t c, const int m, const int part, const T *bias,
                       int prefetch)
{
    V acc[DEPTH_PIXELS];
    const V first = bias ? LOAD_PART(bias + c) : v_set(0);
    UNROLL_FOR(int i = 0; i < m; i++)
        acc[i] = first;
    if (prefetch)
        UNROLL_FOR(int i = m; i < 2 * m; i++) {
            PREFETCH(x[taps - 1] + i * x_step + c);
            PREFETCH_WRITE(y + i * y_step + c);
        }
    for (int64_t t = 0; t < taps; t++) {
        const V weight = LOAD_PART(w[t] + c);
        const T *p = x[t] + c;
        UNROLL_FOR(int i = 0; i < m; i++)
            acc[i] = v_fma(LOAD_PART(p + i * x_step), weight, acc[i]);
    }
    UNROLL_FOR(int i = 0; i < m; i++) {
        if (part)
            v_storet_part(y + i * y_step + c, acc[i], part);
        else
            v_storet(y + i * y_step + c, acc[i]);
    }
}

INLINE void depth_pixels(int64_t taps, const T *const *x, const T *const *w, int64_t x_step, T *y,
                         int64_t y_step, int64_t channels, const int m, const T *bias, int prefetch)
{
    int64_t c = 0;
    for (; c + W <= channels; c += W)
        depth_body(taps, x, w, x_step, y, y_step, c, m, 0, bias, prefetch);
    if (c < channels)
        depth_body(taps, x, w, x_step, y, y_step, c, m, (int)(channels - c), bias, prefetch);
}

/* y[j][c] = bias[c] + sum over t of x[t][j][c] * w[t][c], for count pixels; moves the pointers x.
 * With `prefetch`, the next pixels under the last tap, which no row before has seen, are
 * prefetched. */
static void depth_rows(int64_t taps, const void **x_, const void *const *w_, int64_t count,
                       int64_t x_step, void *y_, int64_t y_step, int64_t channels, const void *bias,
                       int prefetch)
{
    const T **x = (const T **)x_;
    const T *const *w = (const T *const *)w_;
    T *y = y_;
    while (count > 0) {
        const int m = count >= DEPTH_PIXELS ? DEPTH_PIXELS : count >= 4 ? 4 : 1;
        if (m == DEPTH_PIXELS)
            depth_pixels(taps, x, w, x_step, y, y_step, channels, DEPTH_PIXELS, bias, prefetch);
        else if (m == 4)
            depth_pixels(taps, x, w, x_step, y, y_step, channels, 4, bias, prefetch);
        else
            depth_pixels(taps, x, w, x_step, y, y_step, channels, 1, bias, prefetch);
        for (int64_t t = 0; t < taps; t++)
            x[t] += m * x_step;
        y += m * y_step;
        count -= m;
    }
}

INLINE void depth_sums_body(const T *const *x, const T *dy, int64_t count, int64_t x_step,
                            int64_t y_step, int64_t c, const int taps, const int part, T *const *dw)
{
    V acc[DEPTH_TAPS];
    const T *p[DEPTH_TAPS];
    UNROLL_FOR(int t = 0; t < taps; t++) {
        acc[t] = LOAD_PART(dw[t] + c);
        p[t] = x[t] + c;
    }
    dy += c;
    for (int64_t j = 0, at = 0; j < count; j++, at += x_step, dy += y_step) {
        const V d = LOAD_PART(dy);
        UNROLL_FOR(int t = 0; t < taps; t++)
            acc[t] = v_fma(LOAD_PART(p[t] + at), d, acc[t]);
    }
    UNROLL_FOR(int t = 0; t < taps; t++) {
        if (part)
            v_storet_part(dw[t] + c, acc[t], part);
        else
            v_storet(dw[t] + c, acc[t]);
    }
}

/* dw[t][c] += sum over j of x[t][j][c] * dy[j][c] */
static void depth_sums(int64_t taps, const void *const *x_, const void *dy, int64_t count,
                       int64_t x_step, int64_t y_step, int64_t channels, void *const *dw_)
{
    const T *const *x = (const T *const *)x_;
    T *const *dw = (T *const *)dw_;
    for (int64_t c = 0; c < channels; c += W) {
        const int part = channels - c < W ? (int)(channels - c) : 0;
        int64_t t = 0;
        for (; t < taps; t += DEPTH_TAPS) {
            const int64_t m = taps - t < DEPTH_TAPS ? taps - t : DEPTH_TAPS;
            switch (m * 2 + (part > 0)) {
#define CALL(M)                                                                                    \
    case M * 2: depth_sums_body(x + t, dy, count, x_step, y_step, c, M, 0, dw + t); break;         \
    case M * 2 + 1: depth_sums_body(x + t, dy, count, x_step, y_step, c, M, part, dw + t); break;
                CALL(1) CALL(2) CALL(3) CALL(4) CALL(5) CALL(6) CALL(7) CALL(8) CALL(9)
#undef CALL
            }
        }
    }
}
