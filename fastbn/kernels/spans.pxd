# The tables of simd/table.h, as Cython sees them.
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef extern from "table.h" nogil:
    enum:
        ACT_NONE
        ACT_RELU
        ACT_LEAKY
        MOST_TERMS
        MAP_RELU
        MAP_LEAKY
        MAP_SIGMOID
        MAP_TANH
        STREAM_TURNS
        STREAM_LINES
        FASTBN_X86

    ctypedef struct runs_t:
        int64_t runs
        int64_t length
        int64_t stride

    ctypedef struct tensors_t:
        const char *x
        const char *dy
        const char *residual
        char *y
        char *dresidual

    ctypedef struct affine_t:
        double centre
        double a
        double b
        double k0
        double k1

    ctypedef struct affines_t:
        const void *centre
        const void *a
        const void *b
        const void *k0
        const void *k1

    ctypedef struct act_t:
        int kind
        double slope

    ctypedef struct sgd_t:
        double lr
        double momentum
        double decay
        int nesterov

    ctypedef struct adam_t:
        double step
        double beta1
        double beta2
        double correction
        double eps
        double decay
        double keep

    ctypedef struct optim_spans_t:
        void (*sgd)(void *p, const void *g, void *momentum, int64_t n,
                    const sgd_t *s) noexcept nogil
        void (*adam)(void *p, const void *g, void *m, void *v, int64_t n,
                     const adam_t *s) noexcept nogil

    ctypedef struct activation_spans_t:
        void (*map)(const void *x, void *y, int64_t n, int op, double slope,
                    int stream) noexcept nogil
        void (*map_grad)(const void *y, const void *dy, void *dx, int64_t n, int op, double slope,
                         int stream) noexcept nogil
        void (*sum_terms)(const void *const *x, int terms, void *y, int64_t n,
                       int stream) noexcept nogil
        void (*dropout)(const void *x, void *y, int64_t first, int64_t n, uint64_t seed,
                        uint64_t threshold, double scale, int stream) noexcept nogil
        void (*softmax_rows)(const void *x, void *y, int64_t rows, int64_t columns) noexcept nogil
        void (*softmax_grad_rows)(const void *y, const void *dy, void *dx, int64_t rows,
                                  int64_t columns) noexcept nogil

    ctypedef struct ce_row_t:
        int64_t label
        double top
        double scale

    ctypedef struct loss_spans_t:
        double (*ce_rows)(const void *x, ce_row_t *rows, int64_t count,
                          int64_t columns) noexcept nogil
        void (*ce_grad_rows)(const void *x, void *dx, const ce_row_t *rows, int64_t count,
                             int64_t columns, double factor) noexcept nogil
        double (*squares)(const void *p, const void *t, int64_t n) noexcept nogil
        void (*difference)(const void *p, const void *t, void *dp, int64_t n, double factor,
                           int stream) noexcept nogil

    ctypedef struct pool_t:
        int64_t in_h, in_w, channels, out_h, out_w
        int64_t kh, kw, sh, sw, ph, pw, dh, dw
        const int32_t *first
        const int32_t *out
        const int32_t *tap
        const int32_t *row_count
        const int32_t *column_count
        int wide

    ctypedef struct pool_spans_t:
        void (*max_row)(const pool_t *g, const void *x, void *y, void *winners,
                        int64_t out) noexcept nogil
        void (*max_grad_row)(const pool_t *g, const void *dy, const void *winners, void *dx,
                             int64_t row) noexcept nogil
        void (*avg_row)(const pool_t *g, const void *x, void *y, int64_t out) noexcept nogil
        void (*avg_grad_row)(const pool_t *g, const void *dy, void *dx,
                             int64_t row) noexcept nogil
        void (*pixel_means)(const void *x, void *y, int64_t pixels, int64_t channels,
                            int64_t ld) noexcept nogil
        void (*pixel_shares)(const void *dy, void *dx, int64_t pixels, int64_t channels,
                             int64_t total, int stream) noexcept nogil

    ctypedef struct bn_spans_t:
        void (*run_forward)(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                            const affine_t *f, int64_t coming, double *mean, double *m2,
                            const act_t *act, int ask, int stream) noexcept nogil
        void (*run_backward)(const tensors_t *t, const runs_t *r, int64_t first, int64_t now,
                             const affine_t *f, int64_t coming, const affine_t *g, double *sum_d,
                             double *sum_dx, const act_t *act, int frozen, int ask,
                             int stream) noexcept nogil
        void (*map_moments)(const void *x, int64_t rows, int64_t maps, int64_t length, int64_t ld,
                            double *mean, double *m2) noexcept nogil
        void (*map_spread)(const affine_t *f, int64_t maps, int64_t length,
                           const affines_t *to) noexcept nogil
        void (*col_moments)(const void *x, int64_t rows, int64_t columns, int64_t ld,
                            bint ask, double *mean, double *m2) noexcept nogil
        void (*col_merge)(double count, double n, const double *part_mean, const double *part_m2,
                          int64_t columns, double *mean, double *m2) noexcept nogil
        void (*col_invstd)(int64_t n, double count, double eps, double *var,
                           double *invstd) noexcept nogil
        void (*col_move)(int64_t n, double momentum, double scale, const double *batch,
                         void *running) noexcept nogil
        void (*col_running)(int64_t n, double eps, const void *running_mean,
                            const void *running_var, double *mean,
                            double *invstd) noexcept nogil
        void (*col_affine)(int64_t n, const double *mean, const double *invstd,
                           const void *weight, const void *bias, const affines_t *f) noexcept nogil
        void (*col_terms)(int64_t n, double count, const double *mean, const double *invstd,
                          const double *sum_d, double *sum_dx, const affines_t *f,
                          void *dweight, void *dbias, int frozen) noexcept nogil
        void (*col_order)(int64_t n, const affines_t *f, int back) noexcept nogil
        void (*col_apply)(const void *x, const void *residual, void *y, int64_t rows,
                          int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                          int stream) noexcept nogil
        void (*col_grad_sums)(const void *x, const void *dy, const void *residual, int64_t rows,
                              int64_t columns, int64_t ld, bint ask, const affines_t *f,
                              const act_t *act, double *sum_d, double *sum_dx) noexcept nogil
        void (*col_grad_apply)(const void *x, const void *dy, const void *residual, void *dx,
                               void *dresidual, int64_t rows, int64_t columns, int64_t ld,
                               const affines_t *f, const act_t *act, int frozen, bint ask,
                               int stream) noexcept nogil

    ctypedef struct ahead_t:
        const void *p
        int64_t bytes

    ctypedef struct matmul_spans_t:
        int mr
        int nr
        void (*product_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                             const void *const *rows, const void *b, int64_t ldb, void *const *c,
                             int64_t at, int64_t count, int64_t n, const void *bias, int add,
                             bint ask, const void *ahead, int64_t ahead_bytes) noexcept nogil
        void (*product_runs)(const void *a, int64_t apart, int64_t depth, const void *b, void *c,
                             int64_t ldc, int64_t count, int64_t n, int add, const void *ahead,
                             int64_t ahead_bytes) noexcept nogil
        void (*dot_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                         const void *const *rows, const void *b, int64_t ldb, void *const *c,
                         int64_t at, int64_t m, int n, const void *bias, int add) noexcept nogil
        void (*outer_rows)(int64_t count, const void *const *a, const int64_t *off, const void *b,
                           int64_t ldb, void *c, int64_t ldc, int64_t rows, int64_t n, int add,
                           const ahead_t *ahead, int64_t next) noexcept nogil
        void (*outer_runs)(int64_t count, const void *a, int64_t apart, const void *b, void *c,
                           int64_t ldc, int64_t rows, int64_t n, int add) noexcept nogil
        void (*split_pixels)(const void *x, int64_t pixels, int64_t ld, int64_t channels,
                             int64_t run, void *to, int64_t apart) noexcept nogil
        void (*pack_panel)(const void *b, int64_t depth, int64_t n, int64_t sk, int64_t sn,
                           void *panel) noexcept nogil
        void (*col_sums)(const void *x, int64_t rows, int64_t columns, int64_t ld,
                         double *sums) noexcept nogil

    ctypedef struct winograd_spans_t:
        void (*windows)(const void *const *rows, int64_t width, int64_t first, int64_t channels,
                        int64_t tiles, const void *zeros, void *to, int64_t step, int64_t apart,
                        int64_t pitch) noexcept nogil
        int (*outputs)(const void *m, int64_t step, int64_t pitch, int64_t tiles,
                       int64_t channels, const void *bias, void *y0, void *y1,
                       int64_t width) noexcept nogil
        void (*spread)(const void *dy0, const void *dy1, int64_t width, int64_t channels,
                       int64_t tiles, void *to, int64_t apart, int64_t pitch) noexcept nogil
        void (*filters)(const void *g, int64_t n, void *to, int64_t pitch) noexcept nogil
        int (*gradients)(const void *p, int64_t n, int64_t pitch, void *to,
                         int64_t apart) noexcept nogil

    ctypedef struct depth_spans_t:
        void (*depth_rows)(int64_t taps, const void **x, const void *const *w, int64_t count,
                           int64_t x_step, void *y, int64_t y_step, int64_t channels,
                           const void *bias, int ask) noexcept nogil
        void (*depth_sums)(int64_t taps, const void *const *x, const void *dy, int64_t count,
                           int64_t x_step, int64_t y_step, int64_t channels,
                           void *const *dw) noexcept nogil

    ctypedef struct memory_spans_t:
        int64_t (*read_bytes)(const void *x, int64_t n) noexcept nogil
        void (*stream_copy)(const void *x, void *y, int64_t n) noexcept nogil
        void (*triad)(const void *a, const void *b, void *y, int64_t n, int stream) noexcept nogil

    ctypedef struct peak_spans_t:
        int a_round
        double (*multiply_adds)(int64_t rounds) noexcept nogil

    ctypedef struct spans_t:
        int width
        matmul_spans_t matmul
        winograd_spans_t winograd
        depth_spans_t depth
        bn_spans_t bn
        optim_spans_t optim
        activation_spans_t activation
        loss_spans_t loss
        pool_spans_t pool
        memory_spans_t memory
        peak_spans_t peak

    const spans_t fastbn_spans_baseline_f32, fastbn_spans_baseline_f64, fastbn_spans_baseline_bf16
    const spans_t fastbn_spans_avx2_f32, fastbn_spans_avx2_f64, fastbn_spans_avx2_bf16
    const spans_t fastbn_spans_avx512_f32, fastbn_spans_avx512_f64, fastbn_spans_avx512_bf16
