/* What loops over a run have in common: whole vectors, the rest of a run, stores of either kind. */
#ifndef FASTBN_LOOPS_H
#define FASTBN_LOOPS_H

#include "common/vec.h"

/* Values of a run of T are at index j: W of them, or in the tail k. */
#define ALL_OF(p) v_loadt((p) + j)
#define REST_OF(p) v_loadt_part((p) + j, k)

/* out[j] = VALUE(ALL_OF or REST_OF) for j < n; with `stream` past the caches, line by line. */
#define STORE_LOOP(out, n, stream, VALUE)                                                          \
    do {                                                                                           \
        int64_t j = 0;                                                                             \
        if (FASTBN_STREAMS && (stream)) {                                                          \
            const int64_t line = 64 / (int64_t)sizeof(T);                                          \
            const int64_t head = to_line((const io_t *)(out), n);                                  \
            const int64_t last = head + ((n) - head) / line * line;                                \
            while (j < head) {                                                                     \
                const int k = head - j < W ? (int)(head - j) : W;                                  \
                if (k == W)                                                                        \
                    v_storet((out) + j, VALUE(ALL_OF));                                            \
                else                                                                               \
                    v_storet_part((out) + j, VALUE(REST_OF), k);                                   \
                j += k;                                                                            \
            }                                                                                      \
            for (; j < last; j += W)                                                               \
                v_stream((io_t *)(out) + j, VALUE(ALL_OF));                                        \
        }                                                                                          \
        for (; j + W <= (n); j += W)                                                               \
            v_storet((out) + j, VALUE(ALL_OF));                                                    \
        if (j < (n)) {                                                                             \
            const int k = (int)((n) - j);                                                          \
            v_storet_part((out) + j, VALUE(REST_OF), k);                                           \
        }                                                                                          \
    } while (0)

#endif
