/* Which instruction-set levels this processor and its operating system can run, and who made it. */
#ifndef FASTBN_CPU_H
#define FASTBN_CPU_H

enum { LEVEL_BASELINE = 0, LEVEL_AVX2 = 1, LEVEL_AVX512 = 2 };

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
static inline int fastbn_cpu_level(void)
{
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("bmi2")))
        return LEVEL_BASELINE;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return LEVEL_AVX512;
    return LEVEL_AVX2;
}
static inline int fastbn_cpu_is_intel(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
}
#elif defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
static inline int fastbn_cpu_level(void)
{
    int leaf1[4], leaf7[4];
    unsigned long long state;
    __cpuid(leaf1, 1);
    if (!(leaf1[2] & (1 << 27)) || !(leaf1[2] & (1 << 12)))
        return LEVEL_BASELINE; /* no OSXSAVE or no FMA */
    state = _xgetbv(0);
    __cpuidex(leaf7, 7, 0);
    if ((state & 0x6) != 0x6 || !(leaf7[1] & (1 << 5)))
        return LEVEL_BASELINE;
    /* F, DQ, CD, BW, VL */
    if ((state & 0xe6) == 0xe6 && (leaf7[1] & (1 << 16)) && (leaf7[1] & (1 << 17)) &&
        (leaf7[1] & (1 << 28)) && (leaf7[1] & (1 << 30)) && (leaf7[1] & (1u << 31)))
        return LEVEL_AVX512;
    return LEVEL_AVX2;
}
static inline int fastbn_cpu_is_intel(void)
{
    int leaf0[4]; /* the maker's name in EBX, EDX, ECX */
    __cpuid(leaf0, 0);
    return leaf0[1] == 0x756e6547 && leaf0[3] == 0x49656e69 && leaf0[2] == 0x6c65746e;
}
#else
static inline int fastbn_cpu_level(void) { return LEVEL_BASELINE; }
static inline int fastbn_cpu_is_intel(void) { return 0; }
#endif

#endif
