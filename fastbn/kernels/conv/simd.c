#include "conv/table.h"
#if !defined(FASTBN_BF16)
#include "conv/depthwise.h"
#include "conv/winograd.h"

TABLE(conv) = {
    .winograd_windows = winograd_windows,
    .winograd_outputs = winograd_outputs,
    .winograd_spread = winograd_spread,
    .winograd_filters = winograd_filters,
    .winograd_gradients = winograd_gradients,
    .depth_rows = depth_rows,
    .depth_sums = depth_sums,
};
#endif
