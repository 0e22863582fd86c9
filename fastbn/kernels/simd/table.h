/* What spans.c offers: one table of functions per instruction-set level and element type.
 *
 * Arrays are void pointers to io_t (see vec.h), counts and strides are in elements. Doubles and
 * arrays of double are the same for every element type; `T *` scratch and coefficients are passed
 * as void pointers too.
 */
#ifndef FASTBN_TABLE_H
#define FASTBN_TABLE_H

#include <stdint.h>

enum { ACT_NONE = 0, ACT_RELU = 1, ACT_LEAKY = 2 };
enum { MOST_TERMS = 4 }; /* of sum_terms */

/* `runs` runs of `length` contiguous values, the first values `stride` apart. */
typedef struct {
    int64_t runs, length, stride;
} runs_t;

/* The arrays of a call as bytes, NULL where there is none; in backward, y is dx. */
typedef struct {
    const char *x, *dy, *residual;
    char *y, *dresidual;
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
    int kind; /* ACT_… */
    double slope;
} act_t;

/* What a step of an optimizer does with a value p, its gradient g and its state. */
typedef struct {
    double lr, momentum, decay;
    int nesterov;
} sgd_t;

typedef struct {
    double step;         /* lr / (1 - beta1^t) */
    double beta1, beta2;
    double correction;   /* 1 / sqrt(1 - beta2^t) */
    double eps, decay;
    double keep;         /* decoupled decay: what is left of p, 1 - lr * decay; else 1 */
} adam_t;

typedef struct {
    void (*sgd)(void *p, const void *g, void *momentum, int64_t n, const sgd_t *s);
    void (*adam)(void *p, const void *g, void *m, void *v, int64_t n, const adam_t *s);
} optim_spans_t; /* float and double only */

enum { MAP_RELU = 0, MAP_LEAKY = 1, MAP_SIGMOID = 2, MAP_TANH = 3 };

typedef struct {
    void (*map)(const void *x, void *y, int64_t n, int op, double slope, int stream);
    void (*map_grad)(const void *y, const void *dy, void *dx, int64_t n, int op, double slope,
                     int stream);
    void (*sum_terms)(const void *const *x, int terms, void *y, int64_t n, int stream);
    /* first: the index of x[0], an even number; see simd/dropout.h */
    void (*dropout)(const void *x, void *y, int64_t first, int64_t n, uint64_t seed,
                    uint64_t threshold, double scale, int stream);
    void (*softmax_rows)(const void *x, void *y, int64_t rows, int64_t columns);
    void (*softmax_grad_rows)(const void *y, const void *dy, void *dx, int64_t rows,
                              int64_t columns);
} activation_spans_t; /* float and double only */

/* A row of logits: its label, its largest value, and 1 / sum(exp(x - top)). */
typedef struct {
    int64_t label;
    double top, scale;
} ce_row_t;

typedef struct {
    double (*ce_rows)(const void *x, ce_row_t *rows, int64_t count, int64_t columns);
    void (*ce_grad_rows)(const void *x, void *dx, const ce_row_t *rows, int64_t count,
                         int64_t columns, double factor);
    double (*squares)(const void *p, const void *t, int64_t n);
    void (*difference)(const void *p, const void *t, void *dp, int64_t n, double factor,
                       int stream);
} loss_spans_t; /* float and double only */

/* Windows over x (N, in_h, in_w, channels), y (N, out_h, out_w, channels). */
typedef struct {
    int64_t in_h, in_w, channels, out_h, out_w;
    int64_t kh, kw, sh, sw, ph, pw, dh, dw; /* kernel, stride, padding, dilation */
    /* Backward: row i of x is seen by the rows of y out[first[i]] ... out[first[i + 1] - 1], at
     * the rows of their windows tap[...]. */
    const int32_t *first, *out, *tap;
    /* Means: how many rows and columns of a window are divided by, for every row and column of y. */
    const int32_t *row_count, *column_count;
    int wide; /* winners are int32, not uint8 */
} pool_t;

typedef struct {
    void (*max_row)(const pool_t *g, const void *x, void *y, void *winners, int64_t out);
    void (*max_grad_row)(const pool_t *g, const void *dy, const void *winners, void *dx,
                         int64_t row);
    void (*avg_row)(const pool_t *g, const void *x, void *y, int64_t out);
    void (*avg_grad_row)(const pool_t *g, const void *dy, void *dx, int64_t row);
    void (*pixel_means)(const void *x, void *y, int64_t pixels, int64_t channels, int64_t ld);
    void (*pixel_shares)(const void *dy, void *dx, int64_t pixels, int64_t channels,
                         int64_t total, int stream);
} pool_spans_t; /* float and double only */

/* How stores bypass the cache: of runs, in turns with what is read for the next group, or line by
 * line with it, where both groups are alike. */
enum { STREAM_TURNS = 1, STREAM_LINES = 2 };

typedef struct {
    /* Channels whose values lie in runs (NCHW), one run in every sample; the channels stand
     * r->length apart. What f says is done to channels first to first + now - 1, and the moments
     * (or sums) of the `coming` channels after these are taken. Groups have 32 channels at most.
     * Here and below, `ask` says that x comes from memory, of which some is asked for ahead. */
    void (*run_forward)(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                        const affine_t *f, int64_t coming, double *mean, double *m2,
                        const act_t *act, int ask, int stream);
    void (*run_backward)(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                         const affine_t *f, int64_t coming, const affine_t *g, double *sum_d,
                         double *sum_dx, const act_t *act, int frozen, int ask, int stream);
    /* Channels whose runs are very short and lie behind one another (maps of 4 x 4): `maps` of
     * them, each `length` values, in rows `ld` apart. Their coefficients are spread to one for
     * every value, so that the functions for columns do the rest. */
    void (*map_moments)(const void *x, int64_t rows, int64_t maps, int64_t length, int64_t ld,
                        double *mean, double *m2);
    void (*map_spread)(const affine_t *f, int64_t maps, int64_t length, const affines_t *to);
    /* Many channels side by side (channels-last): `columns` of them in rows `ld` apart. */
    void (*col_moments)(const void *x, int64_t rows, int64_t columns, int64_t ld, int ask,
                        double *mean, double *m2);
    void (*col_merge)(double count, double n, const double *part_mean, const double *part_m2,
                      int64_t columns, double *mean, double *m2);
    void (*col_invstd)(int64_t n, double count, double eps, double *var, double *invstd);
    void (*col_move)(int64_t n, double momentum, double scale, const double *batch, void *running);
    void (*col_running)(int64_t n, double eps, const void *running_mean, const void *running_var,
                        double *mean, double *invstd);
    void (*col_affine)(int64_t n, const double *mean, const double *invstd, const void *weight,
                       const void *bias, const affines_t *f);
    void (*col_terms)(int64_t n, double count, const double *mean, const double *invstd,
                      const double *sum_d, double *sum_dx, const affines_t *f,
                      void *dweight, void *dbias, int frozen);
    /* The functions below want coefficients in the order that col_order gives. */
    void (*col_order)(int64_t n, const affines_t *f, int back);
    void (*col_apply)(const void *x, const void *residual, void *y, int64_t rows, int64_t columns,
                      int64_t ld, const affines_t *f, const act_t *act, int stream);
    void (*col_grad_sums)(const void *x, const void *dy, const void *residual, int64_t rows,
                          int64_t columns, int64_t ld, int ask, const affines_t *f, const act_t *act,
                          double *sum_d, double *sum_dx);
    void (*col_grad_apply)(const void *x, const void *dy, const void *residual, void *dx,
                           void *dresidual, int64_t rows, int64_t columns, int64_t ld,
                           const affines_t *f, const act_t *act, int frozen, int ask,
                           int stream);
} bn_spans_t;

/* Memory that is fetched while something else is computed. */
typedef struct {
    const void *p;
    int64_t bytes;
} ahead_t;

typedef struct {
    int mr; /* rows of a tile, at most */
    int nr; /* columns of a tile and of a packed panel */
    void (*product_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                         const void *const *rows, const void *b, int64_t ldb, void *const *c,
                         int64_t at, int64_t count, int64_t n, const void *bias, int add, int ask,
                         const void *ahead, int64_t ahead_bytes);
    void (*product_runs)(const void *a, int64_t apart, int64_t depth, const void *b, void *c,
                         int64_t ldc, int64_t count, int64_t n, int add, const void *ahead,
                         int64_t ahead_bytes);
    void (*dot_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                     const void *const *rows, const void *b, int64_t ldb, void *const *c,
                     int64_t at, int64_t m, int n, const void *bias, int add);
    void (*outer_rows)(int64_t count, const void *const *a, const int64_t *off, const void *b,
                       int64_t ldb, void *c, int64_t ldc, int64_t rows, int64_t n, int add,
                       const ahead_t *ahead, int64_t next);
    void (*outer_runs)(int64_t count, const void *a, int64_t apart, const void *b, void *c,
                       int64_t ldc, int64_t rows, int64_t n, int add);
    void (*split_pixels)(const void *x, int64_t pixels, int64_t ld, int64_t channels, int64_t run,
                         void *to, int64_t apart);
    void (*pack_panel)(const void *b, int64_t depth, int64_t n, int64_t sk, int64_t sn,
                       void *panel);
    void (*col_sums)(const void *x, int64_t rows, int64_t columns, int64_t ld, double *sums);
} matmul_spans_t; /* float and double only: see simd/matmul.h */

typedef struct {
    void (*windows)(const void *const *rows, int64_t width, int64_t first, int64_t channels,
                    int64_t tiles, const void *zeros, void *to, int64_t step, int64_t apart,
                    int64_t pitch);
    int (*outputs)(const void *m, int64_t step, int64_t pitch, int64_t tiles, int64_t channels,
                   const void *bias, void *y0, void *y1, int64_t width);
    void (*spread)(const void *dy0, const void *dy1, int64_t width, int64_t channels,
                   int64_t tiles, void *to, int64_t apart, int64_t pitch);
    void (*filters)(const void *g, int64_t n, void *to, int64_t pitch);
    int (*gradients)(const void *p, int64_t n, int64_t pitch, void *to, int64_t apart);
} winograd_spans_t; /* float and double only: see simd/winograd.h */

typedef struct {
    void (*depth_rows)(int64_t taps, const void **x, const void *const *w, int64_t count,
                       int64_t x_step, void *y, int64_t y_step, int64_t channels,
                       const void *bias, int ask);
    void (*depth_sums)(int64_t taps, const void *const *x, const void *dy, int64_t count,
                       int64_t x_step, int64_t y_step, int64_t channels, void *const *dw);
} depth_spans_t; /* float and double only: see simd/depthwise.h */

typedef struct {
    int64_t (*read_bytes)(const void *x, int64_t n);
    void (*stream_copy)(const void *x, void *y, int64_t n);
    void (*triad)(const void *a, const void *b, void *y, int64_t n, int stream);
} memory_spans_t; /* of bytes; in the float table only */

typedef struct {
    int a_round; /* multiply-adds in a round */
    double (*multiply_adds)(int64_t rounds);
} peak_spans_t; /* float and double only */

typedef struct {
    int width; /* W: values in a vector */
    matmul_spans_t matmul;
    winograd_spans_t winograd;
    depth_spans_t depth;
    bn_spans_t bn;
    optim_spans_t optim;
    activation_spans_t activation;
    loss_spans_t loss;
    pool_spans_t pool;
    memory_spans_t memory;
    peak_spans_t peak;
} spans_t;

#define FASTBN_LEVEL_TABLES(level) \
    extern const spans_t fastbn_spans_##level##_f32, fastbn_spans_##level##_f64, \
        fastbn_spans_##level##_bf16
FASTBN_LEVEL_TABLES(baseline);
#if defined(__x86_64__) || defined(_M_X64)
#define FASTBN_X86 1
FASTBN_LEVEL_TABLES(avx2);
FASTBN_LEVEL_TABLES(avx512);
#else
#define FASTBN_X86 0
#define fastbn_spans_avx2_f32 fastbn_spans_baseline_f32
#define fastbn_spans_avx2_f64 fastbn_spans_baseline_f64
#define fastbn_spans_avx2_bf16 fastbn_spans_baseline_bf16
#define fastbn_spans_avx512_f32 fastbn_spans_baseline_f32
#define fastbn_spans_avx512_f64 fastbn_spans_baseline_f64
#define fastbn_spans_avx512_bf16 fastbn_spans_baseline_bf16
#endif

#endif
