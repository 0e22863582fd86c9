from libc.stdint cimport int64_t, uint64_t


cdef extern from "dropout/table.h" nogil:
    ctypedef struct dropout_simd_t:
        void (*dropout)(const void *x, void *y, int64_t first, int64_t n, uint64_t seed,
                        uint64_t threshold, double scale, int stream) noexcept nogil

    const dropout_simd_t *dropout_table(int level, int element)
