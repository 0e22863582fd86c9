from libc.stdint cimport int64_t


cdef extern from "common/operations.h" nogil:
    enum:
        MAP_RELU
        MAP_LEAKY
        MAP_SIGMOID
        MAP_TANH
        MAP_ELU
        MAP_SELU
        MAP_SILU
        MAP_GELU
        MAP_GELU_TANH
        MAP_HARDSIGMOID
        MAP_HARDSWISH
        MAP_RELU6
        MAP_SOFTPLUS
        MAP_MISH


cdef extern from "activation/table.h" nogil:
    ctypedef struct activation_simd_t:
        void (*map)(const void *x, void *y, int64_t n, int op, double slope,
                    int stream) noexcept nogil
        void (*map_grad)(const void *y, const void *dy, void *dx, int64_t n, int op, double slope,
                         int stream) noexcept nogil
        void (*smooth)(const void *x, void *y, int64_t n, int op, double parameter,
                       int stream) noexcept nogil
        void (*smooth_grad)(const void *x, const void *dy, void *dx, int64_t n, int op,
                            double parameter, int stream) noexcept nogil
        void (*prelu)(const void *x, const void *w, void *y, int64_t rows,
                      int64_t columns) noexcept nogil
        void (*prelu_grad)(const void *x, const void *w, const void *dy, void *dx, double *dw,
                           int64_t rows, int64_t columns) noexcept nogil
        void (*softmax_rows)(const void *x, void *y, int64_t rows, int64_t columns) noexcept nogil
        void (*softmax_grad_rows)(const void *y, const void *dy, void *dx, int64_t rows,
                                  int64_t columns) noexcept nogil

    const activation_simd_t *activation_table(int level, int element)
