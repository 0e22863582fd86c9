#include "batchnorm/table.h"
#include "common/unit.h"
#include "common/vec.h"
#include "common/pointwise.h"

#include "batchnorm/shared.h"
#include "batchnorm/careful.h"
#include "batchnorm/nchw_strips.h"
#include "batchnorm/nchw_moments.h"
#include "batchnorm/nchw_forward.h"
#include "batchnorm/nchw_sums.h"
#include "batchnorm/nchw_backward.h"
#include "batchnorm/nhwc_moments.h"
#include "batchnorm/nhwc_forward.h"
#include "batchnorm/nhwc_backward.h"
#include "batchnorm/smooth.h"
#include "batchnorm/coefficients.h"

TABLE(batchnorm) = {
    .nchw_forward = nchw_forward,
    .nchw_backward = nchw_backward,
    .nchw_smooth = nchw_smooth,
    .nhwc_smooth = nhwc_smooth,
    .careful_smooth = careful_smooth,
    .careful_sums = careful_sums,
    .careful_gradient = careful_gradient,
    .small_moments = small_moments,
    .small_spread = small_spread,
    .nhwc_moments = nhwc_moments,
    .nhwc_forward = nhwc_forward,
    .nhwc_sums = nhwc_sums,
    .nhwc_backward = nhwc_backward,
    .merge_moments = merge_moments,
    .find_invstd = find_invstd,
    .move_running = move_running,
    .read_running = read_running,
    .find_affine = find_affine,
    .gradient_terms = gradient_terms,
    .order_parts = order_parts,
};
