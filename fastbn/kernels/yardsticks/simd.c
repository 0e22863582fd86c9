#include "yardsticks/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "yardsticks/memory.h"
#include "yardsticks/peak.h"

TABLE(yardsticks) = {
    .read_bytes = read_bytes,
    .stream_copy = stream_copy,
    .triad = triad,
    .a_round = MULTIPLY_ADDS_A_ROUND,
    .multiply_adds = multiply_adds,
};
#endif
