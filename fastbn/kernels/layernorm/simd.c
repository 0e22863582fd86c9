#include "layernorm/table.h"
#include "common/vec.h"
#include "common/unit.h"
#include "common/pointwise.h"

#include "layernorm/loops.h"
#include "layernorm/activated.h"

TABLE(layernorm) = {
    .prepare = prepare,
    .rows_forward = rows_forward,
    .rows_activated = rows_activated,
    .add = add,
    .rows_backward = rows_backward,
};
