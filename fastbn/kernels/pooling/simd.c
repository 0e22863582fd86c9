#include "pooling/table.h"
#if !defined(FASTBN_BF16)
#include "common/copy.h"
#include "common/vec.h"
#include "pooling/loops.h"

TABLE(pooling) = {
    .max_row = max_row,
    .max_grad_row = max_grad_row,
    .avg_row = avg_row,
    .avg_grad_row = avg_grad_row,
    .pixel_means = pixel_means,
    .pixel_shares = pixel_shares,
    .stream_copy = stream_copy,
};
#endif
