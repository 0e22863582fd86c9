from libc.stdint cimport int64_t


cdef extern from "add/table.h" nogil:
    enum:
        MOST_TERMS

    ctypedef struct add_simd_t:
        void (*sum_terms)(const void *const *x, int terms, void *y, int64_t n,
                          int stream) noexcept nogil

    const add_simd_t *add_table(int level, int element)

# The table of this machine's level.
cdef const add_simd_t *add_simd(int element) noexcept nogil
