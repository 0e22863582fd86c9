#include "loss/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "loss/cross_entropy.h"
#include "loss/pairs.h"

TABLE(loss) = {
    .ce_rows = ce_rows,
    .ce_grad_rows = ce_grad_rows,
    .ce_shared_rows = ce_shared_rows,
    .ce_shared_grad_rows = ce_shared_grad_rows,
    .pairs = pairs,
    .pairs_grad = pairs_grad,
};
#endif
