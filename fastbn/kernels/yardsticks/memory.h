/* The yardsticks of bandwidth: a read, a copy, and two reads with one write.
 *
 * They move bytes and take them for nothing: the triad writes `a ^ b`, because no pattern of
 * bits is slow there, as a subnormal number is in floating point. `stream` stores bypass the cache.
 */
#include "common/copy.h"

/* Read n bytes; what is returned depends on all of them. */
static int64_t read_bytes(const void *x_, int64_t n)
{
    const char *x = x_;
    int64_t i = 0, sum = 0;
#if FASTBN_VECTORS
    VI a = {0}, b = {0};
    T lanes[W];
    for (; i + 2 * VBYTES <= n; i += 2 * VBYTES) {
        a ^= (VI)v_loadt((const T *)(x + i));
        b ^= (VI)v_loadt((const T *)(x + i) + W);
    }
    v_storet(lanes, (V)(a ^ b));
    for (size_t k = 0; k < sizeof lanes; k++)
        sum ^= ((const char *)lanes)[k];
#endif
    for (; i < n; i++)
        sum ^= x[i];
    return sum;
}

static void triad(const void *a_, const void *b_, void *y_, int64_t n, int stream)
{
    const char *a = a_, *b = b_;
    char *y = y_;
    int64_t i = 0;
    const int64_t head = bytes_to_line(y, n);
    for (; i < head; i++)
        y[i] = (char)(a[i] ^ b[i]);
#if FASTBN_VECTORS
#define TRIAD_LOOP(STORE)                                                                          \
    for (; i + 2 * VBYTES <= n; i += 2 * VBYTES) {                                                 \
        const T *p = (const T *)(a + i), *q = (const T *)(b + i);                                  \
        T *to = (T *)(y + i);                                                                      \
        STORE(to, (V)((VI)v_loadt(p) ^ (VI)v_loadt(q)));                                           \
        STORE(to + W, (V)((VI)v_loadt(p + W) ^ (VI)v_loadt(q + W)));                               \
    }
    if (stream && FASTBN_STREAMS) {
        TRIAD_LOOP(v_stream)
    } else {
        TRIAD_LOOP(v_storet)
    }
#undef TRIAD_LOOP
#else
    (void)stream;
#endif
    for (; i < n; i++)
        y[i] = (char)(a[i] ^ b[i]);
}
