/* A vector of W numbers, as wide as the level being compiled allows.
 *
 * simd.c is compiled once per level and element type, so these names are fixed in each object:
 *   io_t   what arrays hold (float, double, or the 16 bits of a bfloat16)
 *   T      what is computed with (float, double; float for bfloat16)
 *   V      a vector of W values of T
 * Arrays of io_t are read and written in units (unit.h).
 *
 * GCC and Clang have vector types with operators; elsewhere V is a plain T (W = 1), the same code
 * is correct, and the compiler may vectorise what it can. Whatever the level, a value is computed
 * by the same operations wherever it stands in a run: tails go through functions ending in
 * `_part`, so results depend on an element's index, never on its address.
 */
#ifndef FASTBN_VEC_H
#define FASTBN_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "common/cache.h"

#if defined(_MSC_VER) && !defined(__clang__)
#define INLINE static __forceinline
#define NOINLINE __declspec(noinline)
#define ON_LINE __declspec(align(64))
#else
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define ON_LINE __attribute__((aligned(64)))
#endif

#if defined(FASTBN_F64)
typedef double T;
typedef int64_t TI; /* the integer of T's size, for masks */
#else
typedef float T;
typedef int32_t TI;
#endif
#if defined(FASTBN_BF16)
typedef uint16_t io_t;
#else
typedef T io_t;
#endif

#if (defined(__GNUC__) || defined(__clang__)) && !defined(FASTBN_NO_VECTORS)
#define FASTBN_VECTORS 1
#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX2__)
#define VBYTES 32
#else
#define VBYTES 16
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
/* Width of masked loads and stores; 0 where AddressSanitizer runs, which sees only plain ones. */
#if VBYTES == 16 || defined(__SANITIZE_ADDRESS__)
#define MASKED 0
#else
#define MASKED VBYTES
#endif
#define W ((int)(VBYTES / sizeof(T)))
typedef T V __attribute__((vector_size(VBYTES)));
typedef TI VI __attribute__((vector_size(VBYTES)));
typedef T VU __attribute__((vector_size(VBYTES), aligned(sizeof(T)), may_alias));
#else
#define W 1
typedef T V;
#endif

/* ---- numbers in and out of bfloat16 ---- */

#if defined(FASTBN_BF16)
INLINE T s_load(const io_t *p)
{
    uint32_t bits = (uint32_t)*p << 16;
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
INLINE void s_store(io_t *p, T value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    *p = value != value ? (io_t)((bits >> 16) | 0x40u)
                        : (io_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#else
INLINE T s_load(const io_t *p) { return *p; }
INLINE void s_store(io_t *p, T value) { *p = value; }
#endif

/* ---- whole vectors ---- */

#if FASTBN_VECTORS
INLINE V v_set(T value) { return value - (V){0}; }
INLINE V v_loadt(const T *p) { return *(const VU *)p; }
INLINE void v_storet(T *p, V v) { *(VU *)p = v; }

INLINE V v_abs(V v) { return (V)(~(VI)v_set((T)-0.0) & (VI)v); }
/* Where test holds p, elsewhere q. */
INLINE V v_where(VI test, V p, V q) { return (V)((test & (VI)p) | (~test & (VI)q)); }
/* NaN stays NaN: x86's max returns its second operand when either is one. */
INLINE V v_relu(V z)
{
#if VBYTES == 32 && defined(__AVX2__) && defined(FASTBN_F64)
    return (V)_mm256_max_pd(_mm256_setzero_pd(), (__m256d)z);
#elif VBYTES == 32 && defined(__AVX2__)
    return (V)_mm256_max_ps(_mm256_setzero_ps(), (__m256)z);
#elif VBYTES == 64 && defined(FASTBN_F64)
    return (V)_mm512_max_pd(_mm512_setzero_pd(), (__m512d)z);
#elif VBYTES == 64
    return (V)_mm512_max_ps(_mm512_setzero_ps(), (__m512)z);
#else
    return (V)(~(z < 0) & (VI)z);
#endif
}
INLINE V v_leaky(V z, V slope) { return v_where(z < 0, z * slope, z); }
/* d where z lets the gradient of (leaky) ReLU through, else d * slope. NaN lets it through. */
INLINE V v_relu_grad(V z, V d) { return (V)(~(z <= 0) & (VI)d); }
INLINE V v_leaky_grad(V z, V d, V slope) { return v_where(z <= 0, d * slope, d); }
INLINE V v_max(V p, V q) { return v_where(p > q, p, q); }
INLINE V v_flush(V v, V tiny) { return (V)(~(v_abs(v) < tiny) & (VI)v); } /* NaN stays NaN */

INLINE V v_fma(V a, V b, V c)
{
#if defined(__AVX512F__) && defined(FASTBN_F64)
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX512F__)
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && defined(FASTBN_F64)
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__FMA__)
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__) && defined(FASTBN_F64)
    return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#elif defined(__aarch64__)
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* Correctly rounded at every level. */
INLINE V v_sqrt(V v)
{
#if defined(__AVX512F__) && defined(FASTBN_F64)
    return (V)_mm512_sqrt_pd((__m512d)v);
#elif defined(__AVX512F__)
    return (V)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__) && defined(FASTBN_F64)
    return (V)_mm256_sqrt_pd((__m256d)v);
#elif defined(__AVX2__)
    return (V)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__) && defined(FASTBN_F64)
    return (V)_mm_sqrt_pd((__m128d)v);
#elif defined(__SSE2__)
    return (V)_mm_sqrt_ps((__m128)v);
#elif defined(__aarch64__) && defined(FASTBN_F64)
    return (V)vsqrtq_f64((float64x2_t)v);
#elif defined(__aarch64__)
    return (V)vsqrtq_f32((float32x4_t)v);
#else
    for (int i = 0; i < W; i++)
        v[i] = (T)sqrt((double)v[i]);
    return v;
#endif
}

/* The sum of W numbers: halves are added, always in the same way. */
INLINE double sum_lanes(double *lanes)
{
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

typedef double VWIDE __attribute__((vector_size(W * sizeof(double))));

/* Add the values about shift, and their squares, in float64. */
INLINE void v_add_squares(double *sums, double *squares, V v, T shift)
{
    VWIDE s, q;
    const VWIDE d = __builtin_convertvector(v, VWIDE) - (double)shift;
    memcpy(&s, sums, sizeof s);
    memcpy(&q, squares, sizeof q);
    s += d;
    q += d * d;
    memcpy(sums, &s, sizeof s);
    memcpy(squares, &q, sizeof q);
}

/* The sum of the lanes in float64, added as sum_lanes does. */
INLINE double v_sum(V v)
{
#if defined(__AVX2__)
#if defined(__AVX512F__) && defined(FASTBN_F64)
    const __m512d s = (__m512d)v;
#elif defined(__AVX512F__)
    const __m512d s = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)) +
                      _mm512_cvtps_pd((__m256)_mm512_extractf64x4_pd((__m512d)v, 1));
#elif defined(FASTBN_F64)
    const __m256d h = (__m256d)v;
#else
    const __m256d h = _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)) +
                      _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#endif
#if defined(__AVX512F__)
    const __m256d h = _mm512_castpd512_pd256(s) + _mm512_extractf64x4_pd(s, 1);
#endif
    const __m128d q = _mm256_castpd256_pd128(h) + _mm256_extractf128_pd(h, 1);
    return q[0] + q[1];
#else
    double lanes[W];
    const VWIDE wide = __builtin_convertvector(v, VWIDE);
    memcpy(lanes, &wide, sizeof lanes);
    return sum_lanes(lanes);
#endif
}

/* The largest lane, if none is NaN. */
INLINE T v_top(V v)
{
#if defined(__AVX512F__) && defined(FASTBN_F64)
    return _mm512_reduce_max_pd((__m512d)v);
#elif defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    T top = v[0];
    for (int i = 1; i < W; i++)
        top = v[i] > top ? v[i] : top;
    return top;
#endif
}

/* Lanes 0 to k - 1 are all ones, the others zero. */
INLINE VI v_first(int k)
{
    static const TI ones_then_zeros[2 * W] = {
#if VBYTES == 64 && !defined(FASTBN_F64)
        -1, -1, -1, -1, -1, -1, -1, -1,
#endif
#if VBYTES == 64 || (VBYTES == 32 && !defined(FASTBN_F64))
        -1, -1, -1, -1,
#endif
#if VBYTES >= 32 || !defined(FASTBN_F64)
        -1, -1,
#endif
        -1, -1};
    VI mask;
    memcpy(&mask, ones_then_zeros + W - k, sizeof mask);
    return mask;
}

/* The first k < W values of T; the other lanes hold zero. */
INLINE V v_loadt_part(const T *p, int k)
{
#if MASKED == 64 && defined(FASTBN_F64)
    return (V)_mm512_maskz_loadu_pd((__mmask8)((1u << k) - 1), p);
#elif MASKED == 64
    return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << k) - 1), p);
#elif MASKED == 32 && defined(FASTBN_F64)
    return (V)_mm256_maskload_pd(p, (__m256i)v_first(k));
#elif MASKED == 32
    return (V)_mm256_maskload_ps(p, (__m256i)v_first(k));
#else
    T lanes[W] = {0};
    memcpy(lanes, p, (size_t)k * sizeof(T));
    return v_loadt(lanes);
#endif
}
INLINE void v_storet_part(T *p, V v, int k)
{
#if MASKED == 64 && defined(FASTBN_F64)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << k) - 1), (__m512d)v);
#elif MASKED == 64
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << k) - 1), (__m512)v);
#elif MASKED == 32 && defined(FASTBN_F64)
    _mm256_maskstore_pd(p, (__m256i)v_first(k), (__m256d)v);
#elif MASKED == 32
    _mm256_maskstore_ps(p, (__m256i)v_first(k), (__m256)v);
#else
    memcpy(p, &v, (size_t)k * sizeof(T));
#endif
}

/* The same; the other lanes hold fill. */
INLINE V v_loadt_or(const T *p, int k, T fill)
{
    return v_where(v_first(k), v_loadt_part(p, k), v_set(fill));
}

#else /* one number at a time */

typedef TI VI;
INLINE V v_set(T value) { return value; }
INLINE VI v_first(int k) { return -(TI)(k > 0); }
INLINE V v_where(VI test, V p, V q) { return test ? p : q; }
INLINE V v_loadt(const T *p) { return *p; }
INLINE void v_storet(T *p, V v) { *p = v; }
INLINE V v_abs(V v) { return v < 0 ? -v : v; }
INLINE V v_relu(V z) { return z < 0 ? 0 : z; }
INLINE V v_leaky(V z, V slope) { return z < 0 ? z * slope : z; }
INLINE V v_relu_grad(V z, V d) { return z <= 0 ? 0 : d; }
INLINE V v_leaky_grad(V z, V d, V slope) { return z <= 0 ? d * slope : d; }
INLINE V v_max(V p, V q) { return p > q ? p : q; }
INLINE V v_fma(V a, V b, V c) { return a * b + c; }
INLINE V v_sqrt(V v) { return (T)sqrt((double)v); }
INLINE V v_flush(V v, V tiny) { return v_abs(v) < tiny ? 0 : v; }
INLINE double v_sum(V v) { return (double)v; }
INLINE T v_top(V v) { return v; }
INLINE double sum_lanes(double *lanes) { return lanes[0]; }
INLINE void v_add_squares(double *sums, double *squares, V v, T shift)
{
    const double d = (double)v - (double)shift;
    sums[0] += d;
    squares[0] += d * d;
}
INLINE V v_loadt_or(const T *p, int k, T fill)
{
    (void)k;
    (void)p;
    return fill;
}
INLINE V v_loadt_part(const T *p, int k)
{
    (void)k;
    (void)p;
    return 0;
}
INLINE void v_storet_part(T *p, V v, int k)
{
    (void)p;
    (void)v;
    (void)k;
}
#endif

/* ---- stores that bypass the cache ---- */

#if FASTBN_VECTORS && (defined(__x86_64__) || defined(__i386__))
/* p is aligned to a vector. */
INLINE void v_stream(T *p, V v)
{
#if defined(__SANITIZE_ADDRESS__) /* which does not see the others */
    v_storet(p, v);
#elif VBYTES == 64
    _mm512_stream_si512((void *)p, (__m512i)v);
#elif VBYTES == 32
    _mm256_stream_si256((__m256i *)p, (__m256i)v);
#else
    _mm_stream_si128((__m128i *)p, (__m128i)v);
#endif
}
#define FASTBN_STREAMS 1
#else
INLINE void v_stream(T *p, V v) { v_storet(p, v); }
#define FASTBN_STREAMS 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define UNROLL4_FOR(...) _Pragma("GCC unroll 4") for (__VA_ARGS__)
#define UNROLL_FOR(...) _Pragma("GCC unroll 16") for (__VA_ARGS__)
#define UNROLL24_FOR(...) _Pragma("GCC unroll 24") for (__VA_ARGS__)
#define PREFETCH(p) __builtin_prefetch((p), 0, 2)      /* into the second-level cache */
#define PREFETCH_NEAR(p) __builtin_prefetch((p), 0, 3) /* into the first-level cache */
#define PREFETCH_WRITE(p) __builtin_prefetch((p), 1, 2)
#else
#define UNROLL4_FOR(...) for (__VA_ARGS__)
#define UNROLL_FOR(...) for (__VA_ARGS__)
#define UNROLL24_FOR(...) for (__VA_ARGS__)
#define PREFETCH(p) ((void)(p))
#define PREFETCH_NEAR(p) ((void)(p))
#define PREFETCH_WRITE(p) ((void)(p))
#endif

/* Values of io_t from p to the next cache line, at most n: what is stored before streaming. */
INLINE int64_t to_line(const io_t *p, int64_t n)
{
    int64_t k = (int64_t)((64 - ((uintptr_t)p & 63)) & 63) / (int64_t)sizeof(io_t);
    return k < n ? k : n;
}

#endif
