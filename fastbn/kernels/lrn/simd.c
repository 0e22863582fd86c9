#include "lrn/table.h"
#if !defined(FASTBN_BF16)
#include "common/loops.h"

/* Loads are whole vectors: every row in `room` has zeros in front and behind. */

/* The sum of a vector of windows that begin at p. */
INLINE V window(const T *p, int64_t length)
{
    V sum = v_loadt(p);
    for (int64_t i = 1; i < length; i++)
        sum += v_loadt(p + i);
    return sum;
}

/* s^-beta; all networks of the literature have beta = 3/4. */
INLINE V decayed(V s, double beta)
{
    if (beta == 0.75) {
        const V root = v_sqrt(s);
        return v_set(1) / (root * v_sqrt(root));
    }
    T lanes[W];
    v_storet(lanes, s);
    for (int i = 0; i < W; i++)
        lanes[i] = (T)pow((double)lanes[i], -beta);
    return v_loadt(lanes);
}

INLINE void square_row(const T *x, int64_t n, T *squares)
{
#define SQUARE(LOAD) LOAD(x) * LOAD(x)
    STORE_LOOP(squares, n, 0, SQUARE);
#undef SQUARE
}

static void rows(const void *x_, void *y_, int64_t count, const lrn_t *f, void *room_)
{
    const T *x = x_;
    T *y = y_, *squares = room_;
    const int64_t n = f->n, length = f->before + 1 + f->behind;
    const V scale = v_set((T)f->scale), bias = v_set((T)f->k);
    memset(squares, 0, (size_t)lrn_pitch(f) * sizeof(T));
    for (int64_t i = 0; i < count; i++, x += n, y += n) {
        square_row(x, n, squares + f->before);
#define NORMALISED(LOAD) LOAD(x) * decayed(v_fma(window(squares + j, length), scale, bias), f->beta)
        STORE_LOOP(y, n, 0, NORMALISED);
#undef NORMALISED
    }
}

/* With gated = dy s^-beta and share = gated x / s: dx = gated - 2 beta scale x * the sum of the
 * shares of those channels whose window this one is in. */
static void grad_rows(const void *x_, const void *dy_, void *dx_, int64_t count, const lrn_t *f,
                      void *room_)
{
    const T *x = x_, *dy = dy_;
    const int64_t n = f->n, length = f->before + 1 + f->behind, pitch = lrn_pitch(f);
    T *dx = dx_, *squares = room_, *shares = squares + pitch, *s = shares + pitch,
      *gated = s + pitch;
    const V scale = v_set((T)f->scale), bias = v_set((T)f->k);
    const V back = v_set((T)(-2.0 * f->beta * f->scale));
    memset(squares, 0, (size_t)(LRN_ROWS * pitch) * sizeof(T));
    for (int64_t i = 0; i < count; i++, x += n, dy += n, dx += n) {
        square_row(x, n, squares + f->before);
#define SUM(LOAD) v_fma(window(squares + j, length), scale, bias)
#define GATED(LOAD) LOAD(dy) * decayed(LOAD(s), f->beta)
#define SHARE(LOAD) LOAD(gated) * LOAD(x) / LOAD(s)
#define GRADIENT(LOAD) v_fma(window(shares + j, length) * back, LOAD(x), LOAD(gated))
        STORE_LOOP(s, n, 0, SUM);
        STORE_LOOP(gated, n, 0, GATED);
        STORE_LOOP(shares + f->behind, n, 0, SHARE);
        STORE_LOOP(dx, n, 0, GRADIENT);
#undef SUM
#undef GATED
#undef SHARE
#undef GRADIENT
    }
}

TABLE(lrn) = {.rows = rows, .grad_rows = grad_rows};
#endif
