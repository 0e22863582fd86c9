/* A unit: the U values that fill a vector of memory, in one vector of T or in two.
 *
 *   M        the unit as it stands in memory
 *   unit_t   the unit as it is computed with: PARTS vectors V
 *
 * Two bfloat16 share 32 bits: the values of even index are the lower halves (part 0 once they are
 * shifted up), those of odd index the upper halves (part 1 once the lower ones are cleared). That
 * takes one instruction a part, where widening in order takes two; what is different for every
 * column stands in the order of the parts, too (`to_parts`).
 */
#ifndef FASTBN_UNIT_H
#define FASTBN_UNIT_H

#include "common/vec.h"

#if defined(FASTBN_BF16) && FASTBN_VECTORS
#define PARTS 2
#else
#define PARTS 1
#endif
#define U (PARTS * W)
#define EACH_PART(p) UNROLL_FOR(int p = 0; p < PARTS; p++)

typedef struct {
    V p[PARTS];
} unit_t;

#if PARTS == 2
typedef uint32_t M __attribute__((vector_size(VBYTES)));
typedef uint32_t MU __attribute__((vector_size(VBYTES), aligned(2), may_alias));

INLINE M m_load(const io_t *p) { return *(const MU *)p; }
INLINE void m_store(io_t *p, M m) { *(MU *)p = m; }

/* The lower halves of `lower` and the upper halves of `upper`. */
INLINE M m_halves(M lower, M upper)
{
#if VBYTES == 64
    return (M)_mm512_mask_blend_epi16(0xaaaaaaaa, (__m512i)lower, (__m512i)upper);
#elif VBYTES == 32 && defined(__AVX2__)
    return (M)_mm256_blend_epi16((__m256i)lower, (__m256i)upper, 0xaa);
#elif VBYTES == 16 && defined(__SSE4_1__)
    return (M)_mm_blend_epi16((__m128i)lower, (__m128i)upper, 0xaa);
#else
    return (lower & 0xffff) | (upper & 0xffff0000);
#endif
}

/* For every half, 0xfffe where it is zero, else 0xffff. */
INLINE M m_even_if_zero(M m)
{
#if VBYTES == 64
    return (M)_mm512_adds_epu16((__m512i)m, _mm512_set1_epi16(-2));
#elif VBYTES == 32 && defined(__AVX2__)
    return (M)_mm256_adds_epu16((__m256i)m, _mm256_set1_epi16(-2));
#elif defined(__SSE2__)
    return (M)_mm_adds_epu16((__m128i)m, _mm_set1_epi16(-2));
#else
    typedef uint16_t VH __attribute__((vector_size(VBYTES)));
    return (M)((VH)((VH)m != 0) | 0xfffe);
#endif
}

/* The lower halves, shifted up. Zen has one pipe for shifts, and `pack` needs it. */
INLINE M m_shift_up(M m)
{
#if VBYTES == 32 && defined(__AVX2__)
    const __m128i up = _mm_setr_epi8(-1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1, 12, 13);
    return (M)_mm256_shuffle_epi8((__m256i)m, _mm256_broadcastsi128_si256(up));
#else
    return m << 16;
#endif
}

INLINE unit_t unpack(M m)
{
    const unit_t u = {{(V)m_shift_up(m), (V)(m & 0xffff0000)}};
    return u;
}

/* Round to nearest even: away from zero first, and what was in the middle, so that nothing is left
 * below, is made even. A NaN stays one if its lower half is zero. Those of bfloat16 and of the
 * processor have that; coefficients are made so by `plain_nan`. */
INLINE M pack(unit_t u)
{
    const M even = (M)u.p[0] + 0x8000, odd = (M)u.p[1] + 0x8000;
    return m_halves(even >> 16, odd) & m_even_if_zero(m_halves(even, odd << 16));
}

INLINE T plain_nan(T value) { return value == value ? value : (T)NAN; }

/* The first k < U values; the others are zero. */
INLINE M m_load_part(const io_t *p, int k)
{
#if MASKED == 64
    return (M)_mm512_maskz_loadu_epi16((1u << k) - 1, p);
#elif MASKED == 32
    const VI whole = v_first(k / 2);
    const M m = (M)_mm256_maskload_epi32((const int *)p, (__m256i)whole);
    return k & 1 ? m | ((M)(v_first(k / 2 + 1) & ~whole) & (uint32_t)p[k - 1]) : m;
#else
    io_t values[U] = {0};
    memcpy(values, p, (size_t)k * sizeof(io_t));
    return m_load(values);
#endif
}
INLINE void m_store_part(io_t *p, M m, int k)
{
#if MASKED == 64
    _mm512_mask_storeu_epi16(p, (1u << k) - 1, (__m512i)m);
#else
    memcpy(p, &m, (size_t)k * sizeof(io_t));
#endif
}

#elif FASTBN_VECTORS
typedef V M;
INLINE M m_load(const io_t *p) { return v_loadt(p); }
INLINE void m_store(io_t *p, M m) { v_storet(p, m); }
INLINE M m_load_part(const io_t *p, int k) { return v_loadt_part(p, k); }
INLINE void m_store_part(io_t *p, M m, int k) { v_storet_part(p, m, k); }
INLINE unit_t unpack(M m) { return (unit_t){{m}}; }
INLINE M pack(unit_t u) { return u.p[0]; }
INLINE T plain_nan(T value) { return value; }

#else /* one number at a time */
typedef io_t M;
INLINE M m_load(const io_t *p) { return *p; }
INLINE void m_store(io_t *p, M m) { *p = m; }
INLINE M m_load_part(const io_t *p, int k)
{
    (void)p;
    (void)k;
    return 0;
}
INLINE void m_store_part(io_t *p, M m, int k)
{
    (void)p;
    (void)m;
    (void)k;
}
INLINE unit_t unpack(M m) { return (unit_t){{s_load(&m)}}; }
INLINE M pack(unit_t u)
{
    M m;
    s_store(&m, u.p[0]);
    return m;
}
INLINE T plain_nan(T value) { return value; }
#endif

/* Of `left` values, how many make a unit that is not whole; 0 where it is. */
INLINE int part_of(int64_t left) { return left < U ? (int)left : 0; }

/* `part` values, or all of them if that is 0. */
INLINE M m_load_some(const io_t *p, int part) { return part ? m_load_part(p, part) : m_load(p); }
INLINE unit_t u_load(const io_t *p, int part) { return unpack(m_load_some(p, part)); }

/* With `stream`, past the cache to a p that is aligned to a vector. */
INLINE void put(io_t *p, M m, int part, int stream)
{
    (void)stream;
    if (part)
        m_store_part(p, m, part);
#if FASTBN_STREAMS
    else if (stream)
        v_stream((T *)p, (V)m);
#endif
    else
        m_store(p, m);
}

/* A coefficient for every value, in the order of the parts. */
INLINE unit_t u_loadt(const T *p)
{
    unit_t u;
    EACH_PART(k)
        u.p[k] = v_loadt(p + k * W);
    return u;
}
INLINE void u_storet(T *p, unit_t u)
{
    EACH_PART(k)
        v_storet(p + k * W, u.p[k]);
}

/* Of the values k to U - 1 (from index k on), what q holds; of those before, p. */
INLINE unit_t u_where_first(int k, unit_t p, unit_t q)
{
    EACH_PART(i)
        p.p[i] = v_where(v_first((k + PARTS - 1 - i) / PARTS), p.p[i], q.p[i]);
    return p;
}

INLINE unit_t u_set(T value)
{
    unit_t u;
    EACH_PART(k)
        u.p[k] = v_set(value);
    return u;
}

/* ---- arrays of T in the order of the parts; n is filled up to whole units ---- */

INLINE int64_t whole_units(int64_t n) { return (n + U - 1) / U * U; }

INLINE void to_parts(T *values, int64_t n)
{
    for (int64_t j = 0; PARTS > 1 && j < n; j += U) {
        T from[U];
        memcpy(from, values + j, sizeof from);
        for (int i = 0; i < U; i++)
            values[j + i] = from[i % W * PARTS + i / W];
    }
}

INLINE void from_parts(T *values, int64_t n)
{
    for (int64_t j = 0; PARTS > 1 && j < n; j += U) {
        T from[U];
        memcpy(from, values + j, sizeof from);
        for (int i = 0; i < U; i++)
            values[j + i % W * PARTS + i / W] = from[i];
    }
}
#endif
