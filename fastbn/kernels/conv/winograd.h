/* Winograd convolution F(m x m, 3 x 3): m * m outputs of a 3x3 window for (m + 2)^2 products, 16
 * instead of 36 for m = 2, 36 instead of 144 for m = 4.
 *
 * Winograd, "Arithmetic Complexity of Computations" (1980); Lavin & Gray, "Fast Algorithms for
 * Convolutional Neural Networks" (2016), section 4. For a tile y of m x m outputs, the window d of
 * (m + 2) x (m + 2) inputs that they see and the filter g
 *
 *     y = A' [(G g G') * (B' d B)] A        dg = G' [(A dy A') * (B' d B)] G
 *
 * where * is elementwise: summed over channels (or tiles), (m + 2)^2 products of matrices, which
 * matmul computes. winograd_points.h has A', B' and G. The functions below are what goes before and
 * behind; m is a constant in all of them. The matrices lie `pitch` elements apart.
 *
 * While one row of tiles is taken, the pixels that the next one adds to it are prefetched: tiles
 * are too small for the processor to see where they lead. Below an image stands the next one.
 */
#include "conv/winograd_points.h"
#include "matmul/panel.h"

/* Prefetch W channels of m x m pixels in rows of `width` pixels. */
INLINE void prefetch_pixels(const int m, const T *p, int64_t width, int64_t channels)
{
    UNROLL_FOR(int r = 0; r < m; r++)
        UNROLL_FOR(int s = 0; s < m; s++)
            PREFETCH(p + (r * width + s) * channels);
}

/* B' d B of W channels; d[r][s] is AT(r, s). A pair of rows at a time: values are read again,
 * rather than kept in more registers than there are. */
#define WINDOW(AT)                                                                                 \
    UNROLL_FOR(int pair = 0; pair <= m / 2; pair++) {                                              \
        V rows[2][MOST_POINTS];                                                                    \
        UNROLL_FOR(int s = 0; s < m + 2; s++) {                                                    \
            V d[MOST_POINTS], two[2];                                                              \
            UNROLL_FOR(int r = 0; r < m + 2; r++)                                                  \
                d[r] = AT(r, s);                                                                   \
            window_pair(m, pair, d, two);                                                          \
            rows[0][s] = two[0];                                                                   \
            rows[1][s] = two[1];                                                                   \
        }                                                                                          \
        UNROLL_FOR(int i = 0; i < 2; i++)                                                          \
            UNROLL_FOR(int across = 0; across <= m / 2; across++) {                                \
                V two[2];                                                                          \
                window_pair(m, across, rows[i], two);                                              \
                store_pair(m, row_of_pair(m, pair, i), across, two, to, pitch);                    \
            }                                                                                      \
    }

INLINE void store_pair(const int m, const int row, const int pair, const V *two, T *to,
                       int64_t pitch)
{
    UNROLL_FOR(int i = 0; i < 2; i++)
        v_storet(to + (row * (m + 2) + row_of_pair(m, pair, i)) * pitch, two[i]);
}

/* The windows of `tiles` tiles side by side, channel by channel. rows[r]: a row of pixels, or NULL
 * for padding; the first window begins at column `first`, which may be negative. Channels c to
 * c + W - 1 of tile t go to + t * step + c / W * apart; zeros fill the last vector. `zeros` holds
 * m + 2 pixels of them. */
INLINE void windows(const int m, const void *const *rows, int64_t width, int64_t first,
                    int64_t channels, int64_t tiles, const void *zeros, void *to_, int64_t step,
                    int64_t apart, int64_t pitch)
{
    const int64_t whole = channels / W * W;
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t column = first + m * t;
        T *to = (T *)to_ + t * step;
        int64_t c = 0;
        const T *at[MOST_POINTS][MOST_POINTS];
        for (int r = 0; r < m + 2; r++)
            at[r][0] = rows[r] ? (const T *)rows[r] + column * channels : (const T *)zeros;
        /* m rows and two columns on */
        const T *next = at[2][0] + (m * width + 2) * channels;
        if (column >= 0 && column + m + 2 <= width) {
            const T *in[MOST_POINTS];
            UNROLL_FOR(int r = 0; r < m + 2; r++)
                in[r] = at[r][0];
#define INSIDE(r, s) v_loadt(in[r] + (s) * channels + c)
            for (; c < whole; c += W, to += apart) {
                prefetch_pixels(m, next + c, width, channels);
                WINDOW(INSIDE);
            }
#undef INSIDE
        }
        if (c == channels)
            continue;
        for (int r = 0; r < m + 2; r++)
            for (int s = m + 1; s >= 0; s--)
                at[r][s] = column + s >= 0 && column + s < width ? at[r][0] + s * channels
                                                                 : (const T *)zeros;
#define ANYWHERE(r, s) v_loadt(at[r][s] + c)
        for (; c < whole; c += W, to += apart) {
            prefetch_pixels(m, next + c, width, channels);
            WINDOW(ANYWHERE);
        }
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

/* W channels of a tile of y = A' u A (+ bias), of which high x wide outputs are wanted; part: only
 * so many channels, or 0. Returns the sum of 0 * y: NaN where a number is not finite. */
INLINE V output_tile(const int m, const T *u, int64_t pitch, const T *bias, T *y, int64_t width,
                     int64_t channels, const int high, const int wide, const int part)
{
    V zero = v_set(0), b = v_set(0);
    if (bias)
        b = part ? v_loadt_part(bias, part) : v_loadt(bias);
    UNROLL_FOR(int odd = 0; odd < 2; odd++) {
        V rows[2][MOST_POINTS];
        UNROLL_FOR(int s = 0; s < m + 2; s++) {
            V column[MOST_POINTS], two[2];
            UNROLL_FOR(int r = 0; r < m + 2; r++) {
                const T *p = u + (r * (m + 2) + s) * pitch;
                column[r] = part ? v_loadt_part(p, part) : v_loadt(p);
            }
            output_rows(m, odd, column, two);
            UNROLL_FOR(int i = 0; i < m / 2; i++)
                rows[i][s] = two[i];
        }
        UNROLL_FOR(int i = 0; i < m / 2; i++)
            UNROLL_FOR(int across = 0; across < 2; across++) {
                V two[2];
                output_rows(m, across, rows[i], two);
                UNROLL_FOR(int j = 0; j < m / 2; j++) {
                    const int r = odd + 2 * i, s = across + 2 * j;
                    T *to = y + (r * width + s) * channels;
                    if (r >= high || s >= wide)
                        continue;
                    two[j] = two[j] + b;
                    zero = v_fma(two[j], v_set(0), zero);
                    if (part)
                        v_storet_part(to, two[j], part);
                    else
                        v_storet(to, two[j]);
                }
            }
    }
    return zero;
}

/* y of `tiles` tiles side by side, in `high` <= m rows of `width` pixels; the last tile may be
 * narrower. Tells whether all numbers are finite. */
INLINE int outputs(const int m, const void *u_, int64_t step, int64_t pitch, int64_t tiles,
                   int64_t channels, const void *bias_, void *y_, int64_t high, int64_t width)
{
    V zero = v_set(0);
    for (int64_t t = 0; t < tiles; t++) {
        const int wide = width - m * t < m ? (int)(width - m * t) : m;
        for (int64_t c = 0; c < channels; c += W) {
            const T *u = (const T *)u_ + t * step + c;
            const T *bias = bias_ ? (const T *)bias_ + c : NULL;
            T *y = (T *)y_ + m * t * channels + c;
            prefetch_pixels(m, y + m * width * channels, width, channels);
            if (channels - c < W)
                zero += output_tile(m, u, pitch, bias, y, width, channels, (int)high, wide,
                                    (int)(channels - c));
            else if (high == m && wide == m)
                zero += output_tile(m, u, pitch, bias, y, width, channels, m, m, 0);
            else
                zero += output_tile(m, u, pitch, bias, y, width, channels, (int)high, wide, 0);
        }
    }
    return v_sum(zero) == 0;
}

/* A dy A' of `tiles` tiles side by side, in `high` <= m rows of `width` pixels of dy; the last tile
 * may be narrower. Channel c of tile t goes to + t * NR + c / NR * apart + c % NR; zeros fill the
 * last vector. */
INLINE void spread(const int m, const void *dy_, int64_t high, int64_t width, int64_t channels,
                   int64_t tiles, void *to_, int64_t apart, int64_t pitch)
{
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t wide = width - m * t;
        for (int64_t c = 0; c < channels; c += W) {
            const T *dy = (const T *)dy_ + m * t * channels + c;
            const int part = channels - c < W ? (int)(channels - c) : 0;
            T *to = (T *)to_ + t * NR + c / NR * apart + c % NR;
            V d[4][4];
            prefetch_pixels(m, dy + m * width * channels, width, channels);
            UNROLL_FOR(int r = 0; r < m; r++)
                UNROLL_FOR(int s = 0; s < m; s++) {
                    const T *p = dy + (r * width + s) * channels;
                    d[s][r] = r >= high || s >= wide ? v_set(0)
                              : part                 ? v_loadt_part(p, part)
                                                     : v_loadt(p);
                }
            UNROLL_FOR(int pair = 0; pair <= m / 2; pair++) {
                V rows[2][4];
                UNROLL_FOR(int s = 0; s < m; s++) {
                    V two[2];
                    spread_pair(m, pair, d[s], two);
                    rows[0][s] = two[0];
                    rows[1][s] = two[1];
                }
                UNROLL_FOR(int i = 0; i < 2; i++)
                    UNROLL_FOR(int across = 0; across <= m / 2; across++) {
                        V two[2];
                        spread_pair(m, across, rows[i], two);
                        store_pair(m, row_of_pair(m, pair, i), across, two, to, pitch);
                    }
            }
        }
    }
}

/* G g G' of n filters, n a multiple of W: tap (r, s) of all at g + (3 * r + s) * n. */
INLINE void filters(const int m, const void *g_, int64_t n, void *to, int64_t pitch)
{
    for (int64_t i = 0; i < n; i += W) {
        const T *g = (const T *)g_ + i;
        UNROLL_FOR(int pair = 0; pair <= m / 2; pair++) {
            V rows[2][3];
            UNROLL_FOR(int s = 0; s < 3; s++) {
                const V taps[3] = {v_loadt(g + s * n), v_loadt(g + (3 + s) * n),
                                   v_loadt(g + (6 + s) * n)};
                V two[2];
                filter_pair(m, pair, taps, two);
                rows[0][s] = two[0];
                rows[1][s] = two[1];
            }
            UNROLL_FOR(int k = 0; k < 2; k++)
                UNROLL_FOR(int across = 0; across <= m / 2; across++) {
                    V two[2];
                    filter_pair(m, across, rows[k], two);
                    store_pair(m, row_of_pair(m, pair, k), across, two, (T *)to + i, pitch);
                }
        }
    }
}

/* G' u G of n filters: tap (r, s) of all goes to + (3 * r + s) * apart. Tells whether all numbers
 * are finite. */
INLINE int gradients(const int m, const void *u_, int64_t n, int64_t pitch, void *to_,
                     int64_t apart)
{
    V zero = v_set(0);
    for (int64_t i = 0; i < n; i += W) {
        const T *u = (const T *)u_ + i;
        const int part = n - i < W ? (int)(n - i) : 0;
        V rows[3][MOST_POINTS];
        UNROLL_FOR(int s = 0; s < m + 2; s++) {
            V column[MOST_POINTS], three[3];
            UNROLL_FOR(int r = 0; r < m + 2; r++) {
                const T *p = u + (r * (m + 2) + s) * pitch;
                column[r] = part ? v_loadt_part(p, part) : v_loadt(p);
            }
            gradient_rows(m, column, three);
            UNROLL_FOR(int r = 0; r < 3; r++)
                rows[r][s] = three[r];
        }
        UNROLL_FOR(int r = 0; r < 3; r++) {
            V taps[3];
            gradient_rows(m, rows[r], taps);
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
