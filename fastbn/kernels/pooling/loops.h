/* Pooling, channels-last: a row of pixels at a time, vectors of channels.
 *
 * Forward and backward walk over the windows: forward over those of a row of y, backward over those
 * that see a row of dx, which add to it in one order while it is in the cache. The maximum's place
 * is kept as the number of its tap, a byte where there are fewer than 255.
 */
#include "common/loops.h"

/* Channels are taken four vectors at a time, then one, then the rest of k. */
#define CHANNEL_GROUPS(channels, CALL)                                                             \
    do {                                                                                           \
        int64_t c = 0;                                                                             \
        for (; c + 4 * W <= (channels); c += 4 * W)                                                \
            CALL(4, 0);                                                                            \
        for (; c + W <= (channels); c += W)                                                        \
            CALL(1, 0);                                                                            \
        if (c < (channels))                                                                        \
            CALL(1, (int)((channels) - c));                                                        \
    } while (0)
#define GROUP_LOAD(p, v) (part ? v_loadt_part((p), part) : v_loadt((p) + (v) * W))
#define GROUP_STORE(p, v, value)                                                                   \
    do {                                                                                           \
        if (part)                                                                                  \
            v_storet_part((p), (value), part);                                                     \
        else                                                                                       \
            v_storet((p) + (v) * W, (value));                                                      \
    } while (0)

/* ---- numbers of taps, a vector of them ---- */

#if FASTBN_VECTORS
typedef uint8_t VB __attribute__((vector_size(W)));
INLINE VI tap_set(int64_t tap) { return (TI)tap - (VI){0}; }
/* v_where in one instruction: compilers do not find it. */
INLINE V pick(VI test, V p, V q)
{
#if VBYTES == 32 && defined(__AVX2__)
    return (V)_mm256_blendv_epi8((__m256i)q, (__m256i)p, (__m256i)test);
#elif VBYTES == 16 && defined(__SSE4_1__)
    return (V)_mm_blendv_epi8((__m128i)q, (__m128i)p, (__m128i)test);
#else
    return v_where(test, p, q);
#endif
}
INLINE VI tap_pick(VI test, VI p, VI q) { return (VI)pick(test, (V)p, (V)q); }
INLINE V value_where(VI test, V value) { return (V)(test & (VI)value); } /* elsewhere 0 */
/* Where value takes the place of best: NaN does, but for another NaN. */
INLINE VI wins(V value, V best) { return ~(value <= best) & (best == best); }
/* W bytes to W lanes and back: compilers convert such short vectors byte by byte. */
INLINE VI taps_widen(const uint8_t *p)
{
#if defined(__SSE4_1__)
    __m128i bytes;
    if (W == 16) {
        bytes = _mm_loadu_si128((const __m128i *)p);
    } else if (W == 8) {
        bytes = _mm_loadl_epi64((const __m128i *)p);
    } else {
        int32_t few = 0;
        memcpy(&few, p, W);
        bytes = _mm_cvtsi32_si128(few);
    }
#if VBYTES == 64 && defined(FASTBN_F64)
    return (VI)_mm512_cvtepu8_epi64(bytes);
#elif VBYTES == 64
    return (VI)_mm512_cvtepu8_epi32(bytes);
#elif VBYTES == 32 && defined(FASTBN_F64)
    return (VI)_mm256_cvtepu8_epi64(bytes);
#elif VBYTES == 32
    return (VI)_mm256_cvtepu8_epi32(bytes);
#elif defined(FASTBN_F64)
    return (VI)_mm_cvtepu8_epi64(bytes);
#else
    return (VI)_mm_cvtepu8_epi32(bytes);
#endif
#else
    VB lanes;
    memcpy(&lanes, p, W);
    return __builtin_convertvector(lanes, VI);
#endif
}

INLINE void taps_narrow(uint8_t *p, VI taps)
{
#if VBYTES == 64 && defined(FASTBN_F64)
    _mm_storel_epi64((__m128i *)p, _mm512_cvtepi64_epi8((__m512i)taps));
#elif VBYTES == 64
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)taps));
#elif defined(__SSE4_1__)
    __m128i bytes;
#if defined(FASTBN_F64)
    const __m128i low = _mm_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
#else
    const __m128i low = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
#endif
#if VBYTES == 32
    const __m128i first = _mm_shuffle_epi8(_mm256_castsi256_si128((__m256i)taps), low);
    const __m128i second = _mm_shuffle_epi8(_mm256_extracti128_si256((__m256i)taps, 1), low);
    bytes = W == 8 ? _mm_unpacklo_epi32(first, second) : _mm_unpacklo_epi16(first, second);
#else
    bytes = _mm_shuffle_epi8((__m128i)taps, low);
#endif
    const int64_t lanes = _mm_cvtsi128_si64(bytes);
    memcpy(p, &lanes, W);
#else
    const VB lanes = __builtin_convertvector(taps, VB);
    memcpy(p, &lanes, W);
#endif
}

INLINE void taps_store(void *p, int64_t at, VI taps, const int wide, const int part)
{
    if (wide || part)
        for (int i = 0; i < (part ? part : W); i++)
            if (wide)
                ((int32_t *)p)[at + i] = (int32_t)taps[i];
            else
                ((uint8_t *)p)[at + i] = (uint8_t)taps[i];
    else
        taps_narrow((uint8_t *)p + at, taps);
}
INLINE VI taps_load(const void *p, int64_t at, const int wide, const int part)
{
    VI taps = {0};
    if (!wide && !part)
        return taps_widen((const uint8_t *)p + at);
    for (int i = 0; i < (part ? part : W); i++)
        taps[i] = wide ? ((const int32_t *)p)[at + i] : ((const uint8_t *)p)[at + i];
    return taps;
}
#else
INLINE VI tap_set(int64_t tap) { return (VI)tap; }
INLINE V pick(VI test, V p, V q) { return test ? p : q; }
INLINE VI tap_pick(VI test, VI p, VI q) { return test ? p : q; }
INLINE V value_where(VI test, V value) { return test ? value : 0; }
INLINE VI wins(V value, V best) { return !(value <= best) && best == best; }
INLINE void taps_store(void *p, int64_t at, VI taps, int wide, int part)
{
    (void)part;
    if (wide)
        ((int32_t *)p)[at] = (int32_t)taps;
    else
        ((uint8_t *)p)[at] = (uint8_t)taps;
}
INLINE VI taps_load(const void *p, int64_t at, int wide, int part)
{
    (void)part;
    return wide ? ((const int32_t *)p)[at] : ((const uint8_t *)p)[at];
}
#endif

/* ---- windows ---- */

/* The taps of window `out` that lie inside the input, along one axis: first to end - 1. */
typedef struct {
    int64_t first, end, at; /* at: what the first one sees */
} taps_t;

INLINE taps_t taps_inside(int64_t out, int64_t size, int64_t taps, int64_t stride, int64_t padding,
                          int64_t dilation)
{
    const int64_t start = out * stride - padding;
    taps_t t = {0, taps, start};
    if (start < 0) {
        t.first = (dilation - 1 - start) / dilation;
        t.at = start + t.first * dilation;
    }
    if (start + (taps - 1) * dilation >= size)
        t.end = start < size ? (size - 1 - start) / dilation + 1 : 0;
    return t;
}

/* ---- maximum ---- */

INLINE void max_group(const T *x, int64_t rows, int64_t row_step, int64_t columns,
                      int64_t column_step, int64_t tap, int64_t row_taps, T *y, void *winners,
                      int64_t at, const int wide, const int vectors, const int part)
{
    V best[4];
    VI which[4];
    UNROLL4_FOR(int v = 0; v < vectors; v++) {
        best[v] = GROUP_LOAD(x, v);
        which[v] = tap_set(tap);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i == 0; j < columns; j++) {
            const T *p = x + i * row_step + j * column_step;
            const VI here = tap_set(tap + i * row_taps + j);
            UNROLL4_FOR(int v = 0; v < vectors; v++) {
                const V value = GROUP_LOAD(p, v);
                const VI test = wins(value, best[v]);
                best[v] = pick(test, value, best[v]);
                which[v] = tap_pick(test, here, which[v]);
            }
        }
    UNROLL4_FOR(int v = 0; v < vectors; v++) {
        GROUP_STORE(y, v, best[v]);
        taps_store(winners, at + v * W, which[v], wide, part);
    }
}

/* Row `out` of y and of the winners; x is the image. A window without inputs (a dilated one
 * may be) is -inf and has no winner. */
static void max_row(const pool_t *g_, const void *x_, void *y_, void *winners, int64_t out)
{
    const pool_t own = *g_, *g = &own; /* no store can change it */
    const T *x = x_;
    T *y = y_;
    const taps_t i = taps_inside(out, g->in_h, g->kh, g->sh, g->ph, g->dh);
    int64_t at = 0;
    for (int64_t column = 0; column < g->out_w; column++, at += g->channels, y += g->channels) {
        const taps_t j = taps_inside(column, g->in_w, g->kw, g->sw, g->pw, g->dw);
        const int64_t rows = i.end - i.first, columns = j.end - j.first;
        if (rows <= 0 || columns <= 0) {
            for (int64_t c = 0; c < g->channels; c++) {
                y[c] = -INFINITY;
                if (g->wide)
                    ((int32_t *)winners)[at + c] = -1;
                else
                    ((uint8_t *)winners)[at + c] = NARROW_TAPS;
            }
            continue;
        }
        const T *p = x + (i.at * g->in_w + j.at) * g->channels;
#define CALL(VECTORS, PART)                                                                        \
    do {                                                                                           \
        if (g->wide)                                                                               \
            max_group(p + c, rows, g->dh * g->in_w * g->channels, columns, g->dw * g->channels,    \
                      i.first * g->kw + j.first, g->kw, y + c, winners, at + c, 1, VECTORS, PART); \
        else                                                                                       \
            max_group(p + c, rows, g->dh * g->in_w * g->channels, columns, g->dw * g->channels,    \
                      i.first * g->kw + j.first, g->kw, y + c, winners, at + c, 0, VECTORS, PART); \
    } while (0)
        CHANNEL_GROUPS(g->channels, CALL);
#undef CALL
    }
}

/* Add a window's dy, where tap `tap` + j won, to pixel j of the `columns` it sees. */
INLINE void max_grad_group(const T *dy, const void *winners, int64_t at, int64_t tap, T *dx,
                           int64_t columns, int64_t column_step, const int wide, const int vectors,
                           const int part)
{
    V d[4];
    VI which[4];
    UNROLL4_FOR(int v = 0; v < vectors; v++) {
        d[v] = GROUP_LOAD(dy + at, v);
        which[v] = taps_load(winners, at + v * W, wide, part);
    }
    for (int64_t j = 0; j < columns; j++) {
        T *p = dx + j * column_step;
        const VI here = tap_set(tap + j);
        UNROLL4_FOR(int v = 0; v < vectors; v++)
            GROUP_STORE(p, v, GROUP_LOAD(p, v) + value_where(which[v] == here, d[v]));
    }
}

/* Row `row` of dx, which begins as zeros; dy and winners are the image's. */
static void max_grad_row(const pool_t *g_, const void *dy, const void *winners, void *dx_,
                         int64_t row)
{
    const pool_t own = *g_, *g = &own; /* no store can change it */
    T *dx = dx_;
    for (int32_t i = g->first[row]; i < g->first[row + 1]; i++) {
        int64_t at = g->out[i] * g->out_w * g->channels;
        for (int64_t column = 0; column < g->out_w; column++, at += g->channels) {
            const taps_t j = taps_inside(column, g->in_w, g->kw, g->sw, g->pw, g->dw);
            const int64_t tap = g->tap[i] * g->kw + j.first, columns = j.end - j.first;
            T *p = dx + j.at * g->channels;
#define CALL(VECTORS, PART)                                                                        \
    do {                                                                                           \
        if (g->wide)                                                                               \
            max_grad_group(dy, winners, at + c, tap, p + c, columns, g->dw * g->channels, 1,       \
                           VECTORS, PART);                                                         \
        else                                                                                       \
            max_grad_group(dy, winners, at + c, tap, p + c, columns, g->dw * g->channels, 0,       \
                           VECTORS, PART);                                                         \
    } while (0)
            CHANNEL_GROUPS(g->channels, CALL);
#undef CALL
        }
    }
}

/* ---- mean ---- */

INLINE void avg_group(const T *x, int64_t rows, int64_t row_step, int64_t columns,
                      int64_t column_step, V divisor, T *y, const int vectors, const int part)
{
    V sum[4];
    UNROLL4_FOR(int v = 0; v < vectors; v++)
        sum[v] = v_set(0);
    for (int64_t i = 0; i < rows; i++) {
        V line[4]; /* sums of sums: large windows lose fewer digits */
        UNROLL4_FOR(int v = 0; v < vectors; v++)
            line[v] = v_set(0);
        for (int64_t j = 0; j < columns; j++)
            UNROLL4_FOR(int v = 0; v < vectors; v++)
                line[v] += GROUP_LOAD(x + i * row_step + j * column_step, v);
        UNROLL4_FOR(int v = 0; v < vectors; v++)
            sum[v] += line[v];
    }
    UNROLL4_FOR(int v = 0; v < vectors; v++)
        GROUP_STORE(y, v, sum[v] / divisor);
}

static void avg_row(const pool_t *g_, const void *x_, void *y_, int64_t out)
{
    const pool_t own = *g_, *g = &own; /* no store can change it */
    const T *x = x_;
    T *y = y_;
    const taps_t i = taps_inside(out, g->in_h, g->kh, g->sh, g->ph, 1);
    for (int64_t column = 0; column < g->out_w; column++, y += g->channels) {
        const taps_t j = taps_inside(column, g->in_w, g->kw, g->sw, g->pw, 1);
        const int64_t rows = i.end - i.first, columns = j.end - j.first;
        const V divisor = v_set((T)((int64_t)g->row_count[out] * g->column_count[column]));
        const T *p = x + (i.at * g->in_w + j.at) * g->channels;
#define CALL(VECTORS, PART)                                                                        \
    avg_group(p + c, rows, g->in_w * g->channels, columns, g->channels, divisor, y + c, VECTORS,   \
              PART)
        CHANNEL_GROUPS(g->channels, CALL);
#undef CALL
    }
}

INLINE void avg_grad_group(const T *dy, V share, T *dx, int64_t columns, int64_t channels,
                           const int vectors, const int part)
{
    V d[4];
    UNROLL4_FOR(int v = 0; v < vectors; v++)
        d[v] = GROUP_LOAD(dy, v) * share;
    for (int64_t j = 0; j < columns; j++) {
        T *p = dx + j * channels;
        UNROLL4_FOR(int v = 0; v < vectors; v++)
            GROUP_STORE(p, v, GROUP_LOAD(p, v) + d[v]);
    }
}

/* Row `row` of dx, which begins as zeros; dy is the image's. */
static void avg_grad_row(const pool_t *g_, const void *dy, void *dx_, int64_t row)
{
    const pool_t own = *g_, *g = &own; /* no store can change it */
    T *dx = dx_;
    for (int32_t i = g->first[row]; i < g->first[row + 1]; i++) {
        const int64_t out = g->out[i];
        const T *p = (const T *)dy + out * g->out_w * g->channels;
        int64_t count = 0;
        V share = v_set(0);
        for (int64_t column = 0; column < g->out_w; column++, p += g->channels) {
            const taps_t j = taps_inside(column, g->in_w, g->kw, g->sw, g->pw, 1);
            const int64_t places = (int64_t)g->row_count[out] * g->column_count[column];
            T *to = dx + j.at * g->channels;
            if (places != count) { /* most windows have as many */
                count = places;
                share = v_set((T)(1.0 / (double)count));
            }
#define CALL(VECTORS, PART)                                                                        \
    avg_grad_group(p + c, share, to + c, j.end - j.first, g->channels, VECTORS, PART)
            CHANNEL_GROUPS(g->channels, CALL);
#undef CALL
        }
    }
}

/* ---- mean over all pixels ---- */

enum { PIXEL_BLOCK = 64 }; /* pixels that are summed in T; blocks are summed in float64 */

INLINE void mean_group(const T *x, T *y, int64_t pixels, int64_t ld, const int vectors,
                       const int part)
{
    double sums[4 * W] = {0};
    T lanes[4 * W];
    for (int64_t first = 0; first < pixels; first += PIXEL_BLOCK) {
        const int64_t end = pixels - first < PIXEL_BLOCK ? pixels : first + PIXEL_BLOCK;
        V sum[4];
        UNROLL4_FOR(int v = 0; v < vectors; v++)
            sum[v] = v_set(0);
        for (int64_t i = first; i < end; i++)
            UNROLL4_FOR(int v = 0; v < vectors; v++)
                sum[v] += GROUP_LOAD(x + i * ld, v);
        UNROLL4_FOR(int v = 0; v < vectors; v++)
            v_storet(lanes + v * W, sum[v]);
        for (int k = 0; k < vectors * W; k++)
            sums[k] += (double)lanes[k];
    }
    for (int k = 0; k < (part ? part : vectors * W); k++)
        y[k] = (T)(sums[k] / (double)pixels);
}

/* The means of `channels` channels of one image, whose pixels are `ld` values apart. */
static void pixel_means(const void *x_, void *y_, int64_t pixels, int64_t channels, int64_t ld)
{
    const T *x = x_;
    T *y = y_;
#define CALL(VECTORS, PART) mean_group(x + c, y + c, pixels, ld, VECTORS, PART)
    CHANNEL_GROUPS(channels, CALL);
#undef CALL
}

/* The gradient of the means of an image: the same dy / pixels for every pixel. */
static void pixel_shares(const void *dy_, void *dx_, int64_t pixels, int64_t channels,
                         int64_t total, int stream)
{
    const T *dy = dy_;
    T *dx = dx_;
    const V divisor = v_set((T)total);
    for (int64_t i = 0; i < pixels; i++, dx += channels) {
#define SHARE(LOAD) LOAD(dy) / divisor
        STORE_LOOP(dx, channels, stream, SHARE);
#undef SHARE
    }
}

#undef CHANNEL_GROUPS
#undef GROUP_LOAD
#undef GROUP_STORE
