#include "activation/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "activation/loops.h"
#include "activation/prelu.h"
#include "activation/smooth.h"

TABLE(activation) = {
    .map = map,
    .map_grad = map_grad,
    .smooth = smooth,
    .smooth_grad = smooth_grad,
    .prelu = prelu,
    .prelu_grad = prelu_grad,
    .softmax_rows = softmax_rows,
    .softmax_grad_rows = softmax_grad_rows,
};
#endif
