#include "layernorm/table.h"
#include "common/vec.h"
#include "common/unit.h"

#include "layernorm/loops.h"

TABLE(layernorm) = {
    .prepare = prepare,
    .rows_forward = rows_forward,
    .rows_backward = rows_backward,
};
