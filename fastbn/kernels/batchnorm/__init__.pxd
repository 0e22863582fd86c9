from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from fastbn.kernels.runtime cimport F64


cdef extern from "common/rounding.h" nogil:
    double round_to_float(double value)


cdef extern from "batchnorm/table.h" nogil:
    enum:
        ACT_NONE
        ACT_RELU
        ACT_LEAKY
        ACT_SMOOTH
        TILE
        GROUP
        SUM_ROWS
        STAGGER_BYTES

    ctypedef struct planes_t:
        int64_t planes
        int64_t length
        int64_t stride

    ctypedef struct tensors_t:
        const char *x
        const char *dy
        const char *residual
        char *y
        char *dx
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
        int smooth

    ctypedef struct careful_t:
        double mean
        double invstd
        double weight
        double bias

    ctypedef struct batchnorm_simd_t:
        void (*nchw_forward)(const tensors_t *t, const planes_t *r, int64_t first, int64_t now,
                             const affine_t *f, int64_t coming, double *mean, double *m2,
                             const act_t *act, int prefetch, int stream) noexcept nogil
        void (*nchw_backward)(const tensors_t *t, const planes_t *r, int64_t first, int64_t now,
                              const affine_t *f, int64_t coming, const affine_t *g, double *sum_d,
                              double *sum_dx, const act_t *act, int frozen, int prefetch,
                              int stream) noexcept nogil
        void (*nchw_smooth)(const tensors_t *t, const planes_t *r, int64_t first, int64_t channels,
                            const affine_t *f, const act_t *act) noexcept nogil
        void (*nhwc_smooth)(const void *x, const void *dy, const void *residual, void *y,
                            int64_t rows, int64_t columns, int64_t ld, const affines_t *f,
                            const act_t *act) noexcept nogil
        void (*careful_smooth)(const tensors_t *t, const planes_t *r, int64_t first,
                               const careful_t *f, const act_t *act) noexcept nogil
        void (*careful_sums)(const tensors_t *t, const planes_t *r, int64_t first,
                             const careful_t *f, const act_t *act, double *dweight,
                             double *dbias) noexcept nogil
        void (*careful_gradient)(const tensors_t *t, const planes_t *r, int64_t first,
                                 const careful_t *f, const act_t *act, double mean_g,
                                 double mean_g_xhat) noexcept nogil
        void (*small_moments)(const void *x, int64_t rows, int64_t channels, int64_t length,
                              int64_t ld, double *mean, double *m2) noexcept nogil
        void (*small_spread)(const affine_t *f, int64_t channels, int64_t length,
                             const affines_t *to) noexcept nogil
        void (*nhwc_moments)(const void *x, int64_t rows, int64_t columns, int64_t ld,
                             bint prefetch, double *mean, double *m2) noexcept nogil
        void (*nhwc_forward)(const void *x, const void *residual, void *y, int64_t rows,
                             int64_t columns, int64_t ld, const affines_t *f, const act_t *act,
                             int stream) noexcept nogil
        void (*nhwc_sums)(const void *x, const void *dy, const void *residual, int64_t rows,
                          int64_t columns, int64_t ld, bint prefetch, const affines_t *f,
                          const act_t *act, double *sum_d, double *sum_dx) noexcept nogil
        void (*nhwc_backward)(const void *x, const void *dy, const void *residual, void *dx,
                              void *dresidual, int64_t rows, int64_t columns, int64_t ld,
                              const affines_t *f, const act_t *act, int frozen, bint prefetch,
                              int stream) noexcept nogil
        void (*merge_moments)(double count, double n, const double *part_mean,
                              const double *part_m2, int64_t columns, double *mean,
                              double *m2) noexcept nogil
        void (*find_invstd)(int64_t n, double count, double eps, double *var,
                            double *invstd) noexcept nogil
        void (*move_running)(int64_t n, double momentum, double scale, const double *batch,
                             void *running) noexcept nogil
        void (*read_running)(int64_t n, double eps, const void *running_mean,
                             const void *running_var, double *mean,
                             double *invstd) noexcept nogil
        void (*find_affine)(int64_t n, const double *mean, const double *invstd,
                            const void *weight, const void *bias,
                            const affines_t *f) noexcept nogil
        void (*gradient_terms)(int64_t n, double count, const double *mean, const double *invstd,
                               const double *sum_d, double *sum_dx, const affines_t *f,
                               void *dweight, void *dbias, int frozen) noexcept nogil
        void (*order_parts)(int64_t n, const affines_t *f, int back) noexcept nogil

    const batchnorm_simd_t *batchnorm_table(int level, int element)

# The table of this machine's level.
cdef const batchnorm_simd_t *batchnorm_simd(int element) noexcept nogil

# An activation by its name; ValueError for one that is none of ours.
cdef act_t activation_of(object activation, object negative_slope) except *


# Does 1 / std times its square, which dx is made of, leave the type?
cdef inline bint is_extreme(const double *invstd, int64_t n, int element) noexcept nogil:
    cdef double most = 1e90 if element == F64 else 1e12
    cdef int64_t i
    for i in range(n):
        if not 1.0 <= invstd[i] * most <= most * most and invstd[i] < INFINITY:
            return True
    return False


# ---- numbers of one channel: T is float64 where the element type is, else float32 ----

cdef inline char *moved(const char *p, int64_t nbytes) noexcept nogil:
    return <char *>p + nbytes if p != NULL else NULL


cdef inline double parameter(const void *p, int64_t i, int element, double default) noexcept nogil:
    if p == NULL:
        return default
    return (<const double *>p)[i] if element == F64 else (<const float *>p)[i]


cdef inline void put(const void *p, int64_t i, int element, double value) noexcept nogil:
    if element == F64:
        (<double *>p)[i] = value
    else:
        (<float *>p)[i] = <float>value


cdef inline double rounded(double value, int element) noexcept nogil:
    return value if element == F64 else round_to_float(value)


cdef inline affine_t affine_of(double mean, double invstd, double weight, double bias,
                               int element) noexcept nogil:
    """y = (x - mean) * invstd * weight + bias, about the rounded mean (see shared.h)."""
    cdef affine_t f
    f.centre = rounded(mean, element)
    f.a = rounded(weight * invstd, element)
    f.b = bias + (f.centre - mean) * f.a
    f.k0 = f.k1 = 0.0
    return f
