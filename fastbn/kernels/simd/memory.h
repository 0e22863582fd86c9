/* The yardsticks of bandwidth: a read, a copy, and two reads with one write.
 *
 * They move bytes and take them for nothing: the triad writes `a ^ b`, because no pattern of
 * bits is slow there, as a subnormal number is in floating point. `stream` stores bypass the cache.
 */
#if defined(FASTBN_F32)

INLINE int64_t bytes_to_line(const char *p, int64_t n)
{
    const int64_t k = (int64_t)(-(uintptr_t)p & (LINE_BYTES - 1));
    return k < n ? k : n;
}

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

static void triad(const void *a_, const void *b_, void *y_, int64_t n, int stream)
{
    const char *a = a_, *b = b_;
    char *y = y_;
    int64_t i = 0;
    const int64_t head = bytes_to_line(y, n);
    for (; i < head; i++)
        y[i] = (char)(a[i] ^ b[i]);
#if FASTBN_VECTORS
#define TRIAD_LOOP(STORE)                                                              \
    for (; i + 2 * VBYTES <= n; i += 2 * VBYTES) {                                     \
        const T *p = (const T *)(a + i), *q = (const T *)(b + i);                      \
        T *to = (T *)(y + i);                                                          \
        STORE(to, (V)((VI)v_loadt(p) ^ (VI)v_loadt(q)));                               \
        STORE(to + W, (V)((VI)v_loadt(p + W) ^ (VI)v_loadt(q + W)));                   \
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
#endif
