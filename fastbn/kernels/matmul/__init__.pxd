from libc.stdint cimport int64_t


cdef extern from "matmul/table.h" nogil:
    enum:
        MOST_MR
        DOT_COLUMNS

    ctypedef struct ahead_t:
        const void *p
        int64_t bytes

    ctypedef struct matmul_simd_t:
        int width
        int mr
        int nr
        void (*product_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                             const void *const *rows, const void *b, int64_t ldb, void *const *c,
                             int64_t at, int64_t count, int64_t n, const void *bias, int add,
                             bint prefetch, const void *ahead, int64_t ahead_bytes) noexcept nogil
        void (*product_blocked)(const void *a, int64_t apart, int64_t depth, const void *b, void *c,
                                int64_t ldc, int64_t count, int64_t n, int add, const void *ahead,
                                int64_t ahead_bytes) noexcept nogil
        void (*dot_rows)(int64_t segments, const int64_t *start, const int64_t *length,
                         const void *const *rows, const void *b, int64_t ldb, void *const *c,
                         int64_t at, int64_t m, int n, const void *bias, int add) noexcept nogil
        void (*outer_rows)(int64_t count, const void *const *a, const int64_t *off, const void *b,
                           int64_t ldb, void *c, int64_t ldc, int64_t rows, int64_t n, int add,
                           const ahead_t *ahead, int64_t next) noexcept nogil
        void (*outer_blocked)(int64_t count, const void *a, int64_t apart, const void *b, void *c,
                              int64_t ldc, int64_t rows, int64_t n, int add) noexcept nogil
        void (*split_pixels)(const void *x, int64_t pixels, int64_t ld, int64_t channels,
                             int64_t block, void *to, int64_t apart) noexcept nogil
        void (*pack_panel)(const void *b, int64_t depth, int64_t n, int64_t sk, int64_t sn,
                           void *panel) noexcept nogil
        void (*col_sums)(const void *x, int64_t rows, int64_t columns, int64_t ld,
                         double *sums) noexcept nogil

    const matmul_simd_t *matmul_table(int level, int element)

# The table of this machine's level.
cdef const matmul_simd_t *matmul_simd(int element) noexcept nogil

# The sums of the columns of a (rows, columns) array, in float64: the gradient of a bias.
cdef void column_sums(const char *x, int64_t rows, int64_t columns, int element, int itemsize,
                      void *sums) noexcept nogil
