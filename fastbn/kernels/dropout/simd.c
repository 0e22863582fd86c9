#include "dropout/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "dropout/loops.h"

TABLE(dropout) = {.dropout = dropout};
#endif
