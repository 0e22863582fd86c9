/* Winograd convolution F(2x2, 3x3): four outputs of a 3x3 window for 16 products instead of 36.
 *
 * Winograd, "Arithmetic Complexity of Computations" (1980); Lavin & Gray, "Fast Algorithms for
 * Convolutional Neural Networks" (2016), section 4.1. For a tile of 2x2 outputs y, the 4x4 inputs d
 * that they see and the filter g
 *
 *     y = A' [(G g G') * (B' d B)] A        dg = G' [(A dy A') * (B' d B)] G
 *
 *          1  0 -1  0           1   0   0          1  1  1  0
 *     B' = 0  1  1  0     G = 1/2 1/2 1/2     A' = 0  1 -1 -1
 *          0 -1  1  0         1/2 -1/2 1/2
 *          0  1  0 -1           0   0   1
 *
 * where * is elementwise: summed over channels (or tiles), 16 products of matrices, which matmul.h
 * computes. The functions below are what goes before and behind. The 16 matrices lie `pitch`
 * elements apart.
 *
 * While one row of tiles is taken, the pixels that the next one adds to it are prefetched: tiles
 * are too small for the processor to see where they lead. Below an image stands the next one.
 */
#include "matmul/panel.h"

/* Prefetch W channels of 2x2 pixels in rows of `width` pixels. */
INLINE void prefetch_pixels(const T *p, int64_t width, int64_t channels)
{
    PREFETCH(p);
    PREFETCH(p + channels);
    PREFETCH(p + width * channels);
    PREFETCH(p + (width + 1) * channels);
}

/* B' d B of W channels; d[r][s] is AT(r, s). Rows 1 and 2 are read twice, rather than kept in more
 * registers than there are. */
#define WINDOW(AT)                                                                                 \
    do {                                                                                           \
        WINDOW_ROW(0, AT(0, s) - AT(2, s));                                                        \
        WINDOW_ROW(1, AT(1, s) + AT(2, s));                                                        \
        WINDOW_ROW(2, AT(2, s) - AT(1, s));                                                        \
        WINDOW_ROW(3, AT(1, s) - AT(3, s));                                                        \
    } while (0)
#define WINDOW_ROW(i, VALUE)                                                                       \
    do {                                                                                           \
        V d[4];                                                                                    \
        UNROLL_FOR(int s = 0; s < 4; s++)                                                          \
            d[s] = VALUE;                                                                          \
        v_storet(to + (4 * (i)) * pitch, d[0] - d[2]);                                             \
        v_storet(to + (4 * (i) + 1) * pitch, d[1] + d[2]);                                         \
        v_storet(to + (4 * (i) + 2) * pitch, d[2] - d[1]);                                         \
        v_storet(to + (4 * (i) + 3) * pitch, d[1] - d[3]);                                         \
    } while (0)

/* The windows of `tiles` tiles side by side, channel by channel. rows[r]: a row of pixels, or NULL
 * for padding; the first window begins at column `first`, which may be negative. Channels c to
 * c + W - 1 of tile t go to + t * step + c / W * apart; zeros fill the last vector. `zeros` holds
 * four pixels of them. */
static void winograd_windows(const void *const *rows, int64_t width, int64_t first,
                             int64_t channels, int64_t tiles, const void *zeros, void *to_,
                             int64_t step, int64_t apart, int64_t pitch)
{
    const int64_t whole = channels / W * W;
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t column = first + 2 * t;
        T *to = (T *)to_ + t * step;
        int64_t c = 0;
        const T *at[4][4];
        for (int r = 0; r < 4; r++)
            at[r][0] = rows[r] ? (const T *)rows[r] + column * channels : (const T *)zeros;
        if (column >= 0 && column + 4 <= width) {
            const T *p0 = at[0][0], *p1 = at[1][0], *p2 = at[2][0], *p3 = at[3][0];
            const T *next = p2 + (2 * width + 2) * channels; /* two rows and two columns on */
#define INSIDE(r, s) v_loadt(p##r + (s) * channels + c)
            for (; c < whole; c += W, to += apart) {
                prefetch_pixels(next + c, width, channels);
                WINDOW(INSIDE);
            }
#undef INSIDE
        }
        if (c == channels)
            continue;
        for (int r = 0; r < 4; r++)
            for (int s = 3; s >= 0; s--)
                at[r][s] = column + s >= 0 && column + s < width ? at[r][0] + s * channels
                                                                 : (const T *)zeros;
#define ANYWHERE(r, s) v_loadt(at[r][s] + c)
        for (; c < whole; c += W, to += apart)
            WINDOW(ANYWHERE);
#undef ANYWHERE
        if (c < channels) {
            const int part = (int)(channels - c);
#define PART(r, s) v_loadt_part(at[r][s] + c, part)
            WINDOW(PART);
#undef PART
        }
    }
}
#undef WINDOW
#undef WINDOW_ROW

/* y = A' m A (+ bias) of `tiles` tiles side by side: rows y0 and y1 of `width` pixels; y1 may be
 * NULL, and the last tile half a tile. Tells whether all numbers are finite. */
static int winograd_outputs(const void *m_, int64_t step, int64_t pitch, int64_t tiles,
                            int64_t channels, const void *bias, void *y0, void *y1, int64_t width)
{
    V zero = v_set(0);
    for (int64_t t = 0; t < tiles; t++) {
        const T *m = (const T *)m_ + t * step;
        T *const to[2] = {(T *)y0 + 2 * t * channels, y1 ? (T *)y1 + 2 * t * channels : NULL};
        const int both = 2 * t + 1 < width;
        for (int64_t c = 0; c < channels; c += W) {
            const int part = channels - c < W ? (int)(channels - c) : 0;
#define M(r, s)                                                                                    \
    (part ? v_loadt_part(m + (4 * (r) + (s)) * pitch + c, part)                                    \
          : v_loadt(m + (4 * (r) + (s)) * pitch + c))
            V u[2][4], b = v_set(0);
            prefetch_pixels(to[0] + 2 * width * channels + c, width, channels);
            if (bias)
                b = part ? v_loadt_part((const T *)bias + c, part) : v_loadt((const T *)bias + c);
            UNROLL_FOR(int s = 0; s < 4; s++) {
                const V m1 = M(1, s), m2 = M(2, s);
                u[0][s] = M(0, s) + (m1 + m2);
                u[1][s] = (m1 - m2) - M(3, s);
            }
#undef M
            UNROLL_FOR(int r = 0; r < 2; r++) {
                const V left = u[r][0] + (u[r][1] + u[r][2]) + b;
                const V right = (u[r][1] - u[r][2]) - u[r][3] + b;
                if (!to[r])
                    continue;
                zero = v_fma(left, v_set(0), zero); /* NaN where left is not finite */
                if (part)
                    v_storet_part(to[r] + c, left, part);
                else
                    v_storet(to[r] + c, left);
                if (!both)
                    continue;
                zero = v_fma(right, v_set(0), zero);
                if (part)
                    v_storet_part(to[r] + channels + c, right, part);
                else
                    v_storet(to[r] + channels + c, right);
            }
        }
    }
    return v_sum(zero) == 0;
}

/* A dy A' of `tiles` tiles side by side, dy in rows dy0 and dy1 (NULL: zeros) of `width` pixels.
 * Channel c of tile t goes to + t * NR + c / NR * apart + c % NR; zeros fill the last vector. */
static void winograd_spread(const void *dy0, const void *dy1, int64_t width, int64_t channels,
                            int64_t tiles, void *to_, int64_t apart, int64_t pitch)
{
    const T *const rows[2] = {dy0, dy1};
    for (int64_t t = 0; t < tiles; t++) {
        const int both = 2 * t + 1 < width;
        for (int64_t c = 0; c < channels; c += W) {
            const int part = channels - c < W ? (int)(channels - c) : 0;
            T *to = (T *)to_ + t * NR + c / NR * apart + c % NR;
            V d[2][2];
            prefetch_pixels(rows[0] + 2 * (width + t) * channels + c, width, channels);
            UNROLL_FOR(int r = 0; r < 2; r++)
                UNROLL_FOR(int s = 0; s < 2; s++) {
                    const T *p = rows[r] + (2 * t + s) * channels + c;
                    d[r][s] = !rows[r] || (s && !both) ? v_set(0)
                              : part                   ? v_loadt_part(p, part)
                                                       : v_loadt(p);
                }
#define ROW(i, VALUE)                                                                              \
    do {                                                                                           \
        V e[2];                                                                                    \
        UNROLL_FOR(int s = 0; s < 2; s++)                                                          \
            e[s] = VALUE;                                                                          \
        v_storet(to + (4 * (i)) * pitch, e[0]);                                                    \
        v_storet(to + (4 * (i) + 1) * pitch, e[0] + e[1]);                                         \
        v_storet(to + (4 * (i) + 2) * pitch, e[0] - e[1]);                                         \
        v_storet(to + (4 * (i) + 3) * pitch, -e[1]);                                               \
    } while (0)
            ROW(0, d[0][s]);
            ROW(1, d[0][s] + d[1][s]);
            ROW(2, d[0][s] - d[1][s]);
            ROW(3, -d[1][s]);
#undef ROW
        }
    }
}

/* G g G' of n filters, n a multiple of W: tap (r, s) of all at g + (3 * r + s) * n. */
static void winograd_filters(const void *g_, int64_t n, void *to_, int64_t pitch)
{
    const T *g = g_;
    const V half = v_set((T)0.5);
    for (int64_t i = 0; i < n; i += W) {
        V u[4][3];
        UNROLL_FOR(int s = 0; s < 3; s++) {
            const V g0 = v_loadt(g + s * n + i), g1 = v_loadt(g + (3 + s) * n + i);
            const V g2 = v_loadt(g + (6 + s) * n + i);
            u[0][s] = g0;
            u[1][s] = half * ((g0 + g2) + g1);
            u[2][s] = half * ((g0 + g2) - g1);
            u[3][s] = g2;
        }
        UNROLL_FOR(int r = 0; r < 4; r++) {
            T *to = (T *)to_ + 4 * r * pitch + i;
            v_storet(to, u[r][0]);
            v_storet(to + pitch, half * ((u[r][0] + u[r][2]) + u[r][1]));
            v_storet(to + 2 * pitch, half * ((u[r][0] + u[r][2]) - u[r][1]));
            v_storet(to + 3 * pitch, u[r][2]);
        }
    }
}

/* G' p G of n filters: tap (r, s) of all goes to + (3 * r + s) * apart. Tells whether all numbers
 * are finite. */
static int winograd_gradients(const void *p_, int64_t n, int64_t pitch, void *to_, int64_t apart)
{
    const T *p = p_;
    const V half = v_set((T)0.5);
    V zero = v_set(0);
    for (int64_t i = 0; i < n; i += W) {
        const int part = n - i < W ? (int)(n - i) : 0;
        V u[3][4];
#define P(r, s)                                                                                    \
    (part ? v_loadt_part(p + (4 * (r) + (s)) * pitch + i, part)                                    \
          : v_loadt(p + (4 * (r) + (s)) * pitch + i))
        UNROLL_FOR(int s = 0; s < 4; s++) {
            const V sum = half * (P(1, s) + P(2, s)), rest = half * (P(1, s) - P(2, s));
            u[0][s] = P(0, s) + sum;
            u[1][s] = rest;
            u[2][s] = sum + P(3, s);
        }
#undef P
        UNROLL_FOR(int r = 0; r < 3; r++) {
            const V sum = half * (u[r][1] + u[r][2]), rest = half * (u[r][1] - u[r][2]);
            const V taps[3] = {u[r][0] + sum, rest, sum + u[r][3]};
            UNROLL_FOR(int s = 0; s < 3; s++) {
                T *to = (T *)to_ + (3 * r + s) * apart + i;
                zero = v_fma(taps[s], v_set(0), zero);
                if (part)
                    v_storet_part(to, taps[s], part);
                else
                    v_storet(to, taps[s]);
            }
        }
    }
    return v_sum(zero) == 0;
}
