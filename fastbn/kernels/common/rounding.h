/* Rounding that compilers leave in place, and the fence behind streaming stores. */
#ifndef FASTBN_ROUNDING_H
#define FASTBN_ROUNDING_H

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
static inline void store_fence(void) { _mm_sfence(); }
#else
static inline void store_fence(void) {}
#endif

/* GCC 12 drops the conversions of `narrow ? (double)(float)v : v` at -O3: go through memory. */
static inline double round_to_float(double value)
{
    volatile float rounded = (float)value;
    return (double)rounded;
}

#endif
