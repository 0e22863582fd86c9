from libc.stdint cimport int64_t


# The sums of the columns of a (rows, columns) array, in float64: the gradient of a bias.
cdef void column_sums(const char *x, int64_t rows, int64_t columns, int element, int itemsize,
                      void *sums) noexcept nogil
