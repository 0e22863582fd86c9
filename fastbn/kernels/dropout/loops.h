/* Dropout of a run: a mask that follows from a seed and the index of an element.
 *
 * Elements 2 k and 2 k + 1 take the low and the high half of the k-th number of SplitMix64 (Steele,
 * Lea & Flood 2014), and are kept where it reaches the threshold. What is dropped is multiplied by
 * 0, so that NaN stays NaN. reference.dropout_keep is the same rule in NumPy.
 */
#include "common/loops.h"

#define GOLDEN 0x9e3779b97f4a7c15ull

#if FASTBN_VECTORS
typedef uint64_t VQ __attribute__((vector_size(VBYTES)));
typedef uint32_t VD __attribute__((vector_size(VBYTES)));

INLINE VQ splitmix(VQ z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* scale for the elements from `index`, an even number, that are kept; 0 for the others */
INLINE V kept(int64_t index, VQ lanes, uint64_t seed, uint32_t threshold, V scale)
{
    const VQ z = splitmix(lanes + (seed + ((uint64_t)index / 2 + 1) * GOLDEN));
#if defined(FASTBN_F64)
    VQ halves;
    for (int i = 0; i < W; i++)
        halves[i] = i % 2 * 32;
    const VI drop = (VI)(((z >> halves) & 0xffffffffu) < (uint64_t)threshold);
#else
    const VI drop = (VI)((VD)z < threshold);
#endif
    return (V)(~drop & (VI)scale);
}

static void dropout(const void *x_, void *y_, int64_t first, int64_t n, uint64_t seed,
                    uint64_t threshold, double scale, int stream)
{
    const T *x = x_;
    T *y = y_;
    const V factor = v_set(threshold >> 32 ? 0 : (T)scale); /* 2^32: nothing is kept */
    const uint32_t least = (uint32_t)threshold;
    VQ lanes; /* the numbers that a vector needs: of float, one for two elements */
    for (int i = 0; i < VBYTES / 8; i++)
        lanes[i] = (uint64_t)(sizeof(T) == 8 ? i / 2 : i) * GOLDEN;
    const int far = stream && ((uintptr_t)y & 63) == 0; /* else vectors begin at odd elements */
#define MASKED(LOAD) LOAD(x) * kept(first + j, lanes, seed, least, factor)
    STORE_LOOP(y, n, far, MASKED);
#undef MASKED
}

#else /* one number at a time */

static void dropout(const void *x_, void *y_, int64_t first, int64_t n, uint64_t seed,
                    uint64_t threshold, double scale, int stream)
{
    const T *x = x_;
    T *y = y_;
    (void)stream;
    for (int64_t j = 0; j < n; j++) {
        uint64_t z = seed + ((uint64_t)(first + j) / 2 + 1) * GOLDEN;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        const uint32_t half = (uint32_t)((first + j) % 2 ? z >> 32 : z);
        y[j] = x[j] * (half < threshold ? 0 : (T)scale);
    }
}
#endif
