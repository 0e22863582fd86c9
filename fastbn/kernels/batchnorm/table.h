/* What batchnorm offers (see common/tables.h). */
#ifndef FASTBN_BATCHNORM_TABLE_H
#define FASTBN_BATCHNORM_TABLE_H

#include "common/cache.h"
#include "common/operations.h"
#include "common/tables.h"

/* ACT_SMOOTH is none of the other functions' business: nchw_smooth and nhwc_smooth are for it. */
enum { ACT_NONE = 0, ACT_RELU = 1, ACT_LEAKY = 2, ACT_SMOOTH = 3 };

enum {
    TILE = 1024,         /* NHWC: columns whose sums are taken at once, at most */
    GROUP = 32,          /* NCHW: channels that a sweep takes at once, at most */
    SUM_ROWS = 64,       /* rows whose sums are taken in T */
    STAGGER_BYTES = 640, /* between arrays that would stand a multiple of a page apart */
};

/* The planes of a channel (NCHW): what each sample has of it, `length` contiguous values; the first
 * values are `stride` apart. */
typedef struct {
    int64_t planes, length, stride;
} planes_t;

/* The arrays of a call as bytes, NULL where there is none. */
typedef struct {
    const char *x, *dy, *residual;
    char *y, *dx, *dresidual;
} tensors_t;

/* What is applied to one channel, or (as arrays of T) to many:
 *   forward   z = (x - centre) * a + b          y = act(z + residual)
 *   backward  d = dy where act lets it through  dx = a * d + (x - centre) * k1 + k0
 */
typedef struct {
    double centre, a, b, k0, k1;
} affine_t;

typedef struct {
    const void *centre, *a, *b, *k0, *k1;
} affines_t;

typedef struct {
    int kind; /* ACT_... */
    double slope;
    int smooth; /* of ACT_SMOOTH: MAP_... */
} act_t;

/* The same of one channel in float64, whatever its scale. */
typedef struct {
    double mean, invstd, weight, bias;
} careful_t;

/* `prefetch`: arrays come from memory, and some of it is fetched ahead. */
typedef struct {
    /* NCHW. What f says is done to channels first to first + now - 1, and the moments (or sums) of
     * the `coming` channels after these are taken. */
    void (*nchw_forward)(const tensors_t *t, const planes_t *r, int64_t first, int64_t now,
                         const affine_t *f, int64_t coming, double *mean, double *m2,
                         const act_t *act, int prefetch, int stream);
    void (*nchw_backward)(const tensors_t *t, const planes_t *r, int64_t first, int64_t now,
                          const affine_t *f, int64_t coming, const affine_t *g, double *sum_d,
                          double *sum_dx, const act_t *act, int frozen, int prefetch, int stream);
    /* y = act(z) of a smooth activation, or where there is dy, its gradient by z, dy * act'(z), goes
     * to y, which may be dy. */
    void (*nchw_smooth)(const tensors_t *t, const planes_t *r, int64_t first, int64_t channels,
                        const affine_t *f, const act_t *act);
    void (*nhwc_smooth)(const void *x, const void *dy, const void *residual, void *y, int64_t rows,
                        int64_t columns, int64_t ld, const affines_t *f, const act_t *act);
    void (*careful_smooth)(const tensors_t *t, const planes_t *r, int64_t first, const careful_t *f,
                           const act_t *act);
    /* Either layout, one channel, whose first value is at index `first`. */
    void (*careful_sums)(const tensors_t *t, const planes_t *r, int64_t first, const careful_t *f,
                         const act_t *act, double *dweight, double *dbias);
    void (*careful_gradient)(const tensors_t *t, const planes_t *r, int64_t first,
                             const careful_t *f, const act_t *act, double mean_g,
                             double mean_g_xhat);
    /* NCHW of small spatial size (4 x 4): `channels` of them, each `length` values, in rows `ld`
     * apart. Their coefficients are spread to one for every value, so that the functions for NHWC
     * do the rest. */
    void (*small_moments)(const void *x, int64_t rows, int64_t channels, int64_t length, int64_t ld,
                          double *mean, double *m2);
    void (*small_spread)(const affine_t *f, int64_t channels, int64_t length, const affines_t *to);
    /* NHWC: rows of pixels, `ld` apart; a channel is a column. */
    void (*nhwc_moments)(const void *x, int64_t rows, int64_t columns, int64_t ld, int prefetch,
                         double *mean, double *m2);
    void (*nhwc_forward)(const void *x, const void *residual, void *y, int64_t rows,
                         int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                         int stream);
    void (*nhwc_sums)(const void *x, const void *dy, const void *residual, int64_t rows,
                      int64_t columns, int64_t ld, int prefetch, const affines_t *f,
                      const act_t *act, double *sum_d, double *sum_dx);
    void (*nhwc_backward)(const void *x, const void *dy, const void *residual, void *dx,
                          void *dresidual, int64_t rows, int64_t columns, int64_t ld,
                          const affines_t *f, const act_t *act, int frozen, int prefetch,
                          int stream);
    /* Statistics and coefficients of n channels. */
    void (*merge_moments)(double count, double n, const double *part_mean, const double *part_m2,
                          int64_t columns, double *mean, double *m2);
    void (*find_invstd)(int64_t n, double count, double eps, double *var, double *invstd);
    void (*move_running)(int64_t n, double momentum, double scale, const double *batch,
                         void *running);
    void (*read_running)(int64_t n, double eps, const void *running_mean, const void *running_var,
                         double *mean, double *invstd);
    void (*find_affine)(int64_t n, const double *mean, const double *invstd, const void *weight,
                        const void *bias, const affines_t *f);
    void (*gradient_terms)(int64_t n, double count, const double *mean, const double *invstd,
                           const double *sum_d, double *sum_dx, const affines_t *f, void *dweight,
                           void *dbias, int frozen);
    /* Into the order that the NHWC functions want coefficients in, or back. */
    void (*order_parts)(int64_t n, const affines_t *f, int back);
} batchnorm_simd_t;
TABLES(batchnorm)

#endif
