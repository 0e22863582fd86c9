/* The spans of one instruction-set level and one element type; setup.py compiles this file once
 * for each, with FASTBN_TABLE (the table's name) and FASTBN_F32, FASTBN_F64 or FASTBN_BF16. */
#include "table.h"
#include "vec.h"
#include "unit.h"

#include "activation.h"
#include "dropout.h"
#include "loss.h"
#include "optim.h"
#include "pooling.h"
#include "batchnorm.h"
#include "batchnorm_strips.h"
#include "batchnorm_runs_moments.h"
#include "batchnorm_runs.h"
#include "batchnorm_runs_gradients.h"
#include "batchnorm_runs_backward.h"
#include "batchnorm_columns_moments.h"
#include "batchnorm_columns.h"
#include "batchnorm_columns_backward.h"
#include "batchnorm_coefficients.h"
#include "matmul.h"
#include "matmul_runs.h"
#include "winograd.h"
#include "depthwise.h"
#include "memory.h"
#include "peak.h"

extern const spans_t FASTBN_TABLE;
const spans_t FASTBN_TABLE = {
    .width = W,
    .matmul = MATMUL_SPANS,
    .winograd = WINOGRAD_SPANS,
    .depth = DEPTH_SPANS,
    .bn = {run_forward, run_backward, map_moments, map_spread, col_moments, col_merge, col_invstd,
           col_move, col_running, col_affine, col_terms, col_order, col_apply, col_grad_sums,
           col_grad_apply},
#if !defined(FASTBN_BF16)
    .optim = {sgd, adam},
    .activation = {map, map_grad, sum_terms, dropout, softmax_rows, softmax_grad_rows},
    .loss = {ce_rows, ce_grad_rows, squares, difference},
    .pool = {max_row, max_grad_row, avg_row, avg_grad_row, pixel_means, pixel_shares},
#endif
#if defined(FASTBN_F32)
    .memory = {read_bytes, stream_copy, triad},
#endif
#if !defined(FASTBN_BF16)
    .peak = {MULTIPLY_ADDS_A_ROUND, multiply_adds},
#endif
};
