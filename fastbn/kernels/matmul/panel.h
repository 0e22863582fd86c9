/* The tile of a matrix product, and the panel of columns that it reads: MR rows by NV vectors of
 * sums stay in registers, 12 of 16, or 24 of 32. */
#ifndef FASTBN_PANEL_H
#define FASTBN_PANEL_H

#include "common/vec.h"

#if defined(__AVX512F__) || defined(__aarch64__)
#define MR 12
#define ROW_CASES(CALL)                                                                            \
    CALL(1)                                                                                        \
    CALL(2) CALL(3) CALL(4) CALL(5) CALL(6) CALL(7) CALL(8) CALL(9) CALL(10) CALL(11) CALL(12)
#else
#define MR 6
#define ROW_CASES(CALL) CALL(1) CALL(2) CALL(3) CALL(4) CALL(5) CALL(6)
#endif
#define NV 2
#define NR (NV * W)

#endif
