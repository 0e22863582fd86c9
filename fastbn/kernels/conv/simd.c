#include "conv/table.h"
#if !defined(FASTBN_BF16)
#include "conv/depthwise.h"
#include "conv/winograd.h"

#define WINOGRAD(m)                                                                                \
    static void winograd_windows##m(const void *const *rows, int64_t width, int64_t first,         \
                                    int64_t channels, int64_t tiles, const void *zeros, void *to,  \
                                    int64_t step, int64_t apart, int64_t pitch)                    \
    {                                                                                              \
        windows(m, rows, width, first, channels, tiles, zeros, to, step, apart, pitch);            \
    }                                                                                              \
    static int winograd_outputs##m(const void *u, int64_t step, int64_t pitch, int64_t tiles,      \
                                   int64_t channels, const void *bias, void *y, int64_t high,      \
                                   int64_t width)                                                  \
    {                                                                                              \
        return outputs(m, u, step, pitch, tiles, channels, bias, y, high, width);                  \
    }                                                                                              \
    static void winograd_spread##m(const void *dy, int64_t high, int64_t width, int64_t channels,  \
                                   int64_t tiles, void *to, int64_t apart, int64_t pitch)          \
    {                                                                                              \
        spread(m, dy, high, width, channels, tiles, to, apart, pitch);                             \
    }                                                                                              \
    static void winograd_filters##m(const void *g, int64_t n, void *to, int64_t pitch)             \
    {                                                                                              \
        filters(m, g, n, to, pitch);                                                               \
    }                                                                                              \
    static int winograd_gradients##m(const void *u, int64_t n, int64_t pitch, void *to,            \
                                     int64_t apart)                                                \
    {                                                                                              \
        return gradients(m, u, n, pitch, to, apart);                                               \
    }
WINOGRAD(2)
WINOGRAD(4)
#undef WINOGRAD
#define WINOGRAD(m)                                                                                \
    {                                                                                              \
        .windows = winograd_windows##m,                                                            \
        .outputs = winograd_outputs##m,                                                            \
        .spread = winograd_spread##m,                                                              \
        .filters = winograd_filters##m,                                                            \
        .gradients = winograd_gradients##m,                                                        \
    }

TABLE(conv) = {
    .winograd = {WINOGRAD(2), WINOGRAD(4)},
    .depth_rows = depth_rows,
    .depth_sums = depth_sums,
};
#endif
