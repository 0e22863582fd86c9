#include "matmul/table.h"
#if !defined(FASTBN_BF16)
#include "matmul/tiles.h"
#include "matmul/blocked.h"

TABLE(matmul) = {
    .width = W,
    .mr = MR,
    .nr = NR,
    .product_rows = product_rows,
    .product_blocked = product_blocked,
    .dot_rows = dot_rows,
    .outer_rows = outer_rows,
    .outer_blocked = outer_blocked,
    .split_pixels = split_pixels,
    .pack_panel = pack_panel,
    .col_sums = col_sums,
};
#endif
