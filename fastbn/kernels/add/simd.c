#include "add/table.h"
#if !defined(FASTBN_BF16)
#include "common/vec.h"
#include "common/loops.h"

static void sum_terms(const void *const *x_, int terms, void *y_, int64_t n, int stream)
{
    const T *const *x = (const T *const *)x_;
    T *y = y_;
#define TWO(LOAD) LOAD(x[0]) + LOAD(x[1])
#define THREE(LOAD) LOAD(x[0]) + LOAD(x[1]) + LOAD(x[2])
#define FOUR(LOAD) LOAD(x[0]) + LOAD(x[1]) + LOAD(x[2]) + LOAD(x[3])
    switch (terms) {
    case 2: STORE_LOOP(y, n, stream, TWO); break;
    case 3: STORE_LOOP(y, n, stream, THREE); break;
    default: STORE_LOOP(y, n, stream, FOUR); break;
    }
#undef TWO
#undef THREE
#undef FOUR
}

TABLE(add) = {.sum_terms = sum_terms};
#endif
