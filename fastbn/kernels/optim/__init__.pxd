from libc.stdint cimport int64_t


cdef extern from "optim/table.h" nogil:
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

    ctypedef struct optim_simd_t:
        void (*sgd)(void *p, const void *g, void *momentum, int64_t n,
                    const sgd_t *s) noexcept nogil
        void (*adam)(void *p, const void *g, void *m, void *v, int64_t n,
                     const adam_t *s) noexcept nogil

    const optim_simd_t *optim_table(int level, int element)
