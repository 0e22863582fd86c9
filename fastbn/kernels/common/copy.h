/* A copy of bytes whose stores bypass the cache. */
#ifndef FASTBN_COPY_H
#define FASTBN_COPY_H

#include "common/vec.h"

INLINE int64_t bytes_to_line(const char *p, int64_t n)
{
    const int64_t k = (int64_t)(-(uintptr_t)p & (LINE_BYTES - 1));
    return k < n ? k : n;
}

static void stream_copy(const void *x_, void *y_, int64_t n)
{
    const char *x = x_;
    char *y = y_;
    int64_t i = bytes_to_line(y, n);
    memcpy(y, x, (size_t)i);
#if FASTBN_STREAMS
    for (; i + 4 * VBYTES <= n; i += 4 * VBYTES) {
        const T *from = (const T *)(x + i);
        T *to = (T *)(y + i);
        const V v0 = v_loadt(from), v1 = v_loadt(from + W);
        const V v2 = v_loadt(from + 2 * W), v3 = v_loadt(from + 3 * W);
        v_stream(to, v0);
        v_stream(to + W, v1);
        v_stream(to + 2 * W, v2);
        v_stream(to + 3 * W, v3);
    }
#endif
    memcpy(y + i, x + i, (size_t)(n - i));
}

#endif
