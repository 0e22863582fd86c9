#include "activation/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "activation/loops.h"

TABLE(activation) = {
    .map = map,
    .map_grad = map_grad,
    .softmax_rows = softmax_rows,
    .softmax_grad_rows = softmax_grad_rows,
};
#endif
