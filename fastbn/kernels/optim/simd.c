#include "optim/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "optim/loops.h"

TABLE(optim) = {.sgd = sgd, .adam = adam};
#endif
