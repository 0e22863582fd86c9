/* The SIMD loops of a room: one table of functions per instruction-set level and element type.
 *
 * A room's table.h defines the type of its table, room_simd_t, and says TABLES(room), or
 * FLOAT_TABLES(room) where there is none for bfloat16. Its simd.c, which setup.py compiles once for
 * every level and element type, fills it: TABLE(room) = {.name = function, ...}. room_table(level,
 * element) finds it again; NULL where there is none.
 *
 * Arrays are void pointers to io_t (see vec.h), counts and strides are in elements. Arrays of
 * double are the same for every element type; scratch and coefficients of type T are passed as void
 * pointers too.
 */
#ifndef FASTBN_TABLES_H
#define FASTBN_TABLES_H

#include <stddef.h>
#include <stdint.h>

enum { BASELINE = 0, AVX2 = 1, AVX512 = 2 };
enum { F32 = 0, F64 = 1, BF16 = 2 };

#if defined(__x86_64__) || defined(_M_X64)
#define FASTBN_X86 1
#else
#define FASTBN_X86 0
#endif

#define TABLE_NAME_(room, level, element) fastbn_##room##_##level##_##element
#define TABLE_NAME(room, level, element) TABLE_NAME_(room, level, element)

#define DECLARE_FLOATS(room, level)                                                                \
    extern const room##_simd_t TABLE_NAME(room, level, f32);                                       \
    extern const room##_simd_t TABLE_NAME(room, level, f64)
#define DECLARE_ALL(room, level)                                                                   \
    DECLARE_FLOATS(room, level);                                                                   \
    extern const room##_simd_t TABLE_NAME(room, level, bf16)
#define ROW_OF_FLOATS(room, level)                                                                 \
    {&TABLE_NAME(room, level, f32), &TABLE_NAME(room, level, f64), NULL}
#define ROW_OF_ALL(room, level)                                                                    \
    {&TABLE_NAME(room, level, f32), &TABLE_NAME(room, level, f64), &TABLE_NAME(room, level, bf16)}

#if FASTBN_X86
#define EVERY_LEVEL(DECLARE, ROW, room)                                                            \
    DECLARE(room, baseline);                                                                       \
    DECLARE(room, avx2);                                                                           \
    DECLARE(room, avx512);                                                                         \
    static inline const room##_simd_t *room##_table(int level, int element)                        \
    {                                                                                              \
        static const room##_simd_t *const tables[][3] = {[BASELINE] = ROW(room, baseline),         \
                                                         [AVX2] = ROW(room, avx2),                 \
                                                         [AVX512] = ROW(room, avx512)};            \
        return tables[level][element];                                                             \
    }
#else
#define EVERY_LEVEL(DECLARE, ROW, room)                                                            \
    DECLARE(room, baseline);                                                                       \
    static inline const room##_simd_t *room##_table(int level, int element)                        \
    {                                                                                              \
        static const room##_simd_t *const tables[][3] = {[BASELINE] = ROW(room, baseline)};        \
        return tables[level][element];                                                             \
    }
#endif
#define TABLES(room) EVERY_LEVEL(DECLARE_ALL, ROW_OF_ALL, room)
#define FLOAT_TABLES(room) EVERY_LEVEL(DECLARE_FLOATS, ROW_OF_FLOATS, room)

/* In simd.c, where setup.py has defined FASTBN_LEVEL (baseline ...) and FASTBN_ELEMENT (f32 ...).
 * */
#define TABLE(room) const room##_simd_t TABLE_NAME(room, FASTBN_LEVEL, FASTBN_ELEMENT)

#endif
