#include "loss/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "loss/loops.h"

TABLE(loss) = {
    .ce_rows = ce_rows,
    .ce_grad_rows = ce_grad_rows,
    .squares = squares,
    .difference = difference,
};
#endif
