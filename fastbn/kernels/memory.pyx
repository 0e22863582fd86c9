"""What memory can do at best: the yardsticks that kernels are measured by.

The arrays are cut into equal contiguous parts, one for each thread of the team that a kernel
would get for as many bytes. Either function has two ways to store, through the caches and past
them; a yardstick is the faster of the two.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memcpy

cimport numpy as cnp

from fastbn.kernels.border cimport data
from fastbn.kernels.runtime cimport F32, spans_of, team

cnp.import_array()

cdef extern from "rounding.h" nogil:
    void store_fence()

cdef enum:
    LINE = 64  # bytes of a cache line


cdef int check(cnp.ndarray x, cnp.ndarray y, str what) except -1:
    if not (cnp.PyArray_IS_C_CONTIGUOUS(x) and cnp.PyArray_IS_C_CONTIGUOUS(y)):
        raise ValueError(f"{what} and y must be C-contiguous")
    if cnp.PyArray_NBYTES(x) != cnp.PyArray_NBYTES(y):
        raise ValueError(f"{what} and y must be of one size in bytes, got "
                         f"{cnp.PyArray_NBYTES(x)} and {cnp.PyArray_NBYTES(y)}")
    if not cnp.PyArray_ISWRITEABLE(y):
        raise ValueError("y must be writeable")
    return 0


cdef int64_t part(int64_t n, int parts, int k) noexcept nogil:
    """Where part k of n bytes begins: at a whole number of cache lines."""
    return n if k == parts else n // LINE * k // parts * LINE


def copy(cnp.ndarray x not None, cnp.ndarray y not None, bint stream=False):
    """Copy the bytes of x to y, each thread its part, with memcpy or with streaming stores."""
    check(x, y, "x")
    cdef const char *source = <const char *>data(x)
    cdef char *target = <char *>data(y)
    cdef int64_t n = cnp.PyArray_NBYTES(x), first, size
    cdef int k, threads = team(2.0 * n)
    for k in prange(threads, nogil=True, schedule="static", num_threads=threads):
        first = part(n, threads, k)
        size = part(n, threads, k + 1) - first
        if stream:
            spans_of(F32).memory.stream_copy(source + first, target + first, size)
            store_fence()
        else:
            memcpy(target + first, source + first, size)


def triad(cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray y not None,
          bint stream=False):
    """Combine the bytes of a and b into y, each thread its part: two reads and one write."""
    check(a, y, "a")
    check(b, y, "b")
    cdef const char *first_source = <const char *>data(a)
    cdef const char *second_source = <const char *>data(b)
    cdef char *target = <char *>data(y)
    cdef int64_t n = cnp.PyArray_NBYTES(y), first, size
    cdef int k, threads = team(3.0 * n)
    for k in prange(threads, nogil=True, schedule="static", num_threads=threads):
        first = part(n, threads, k)
        size = part(n, threads, k + 1) - first
        spans_of(F32).memory.triad(first_source + first, second_source + first, target + first,
                                   size, stream)
        store_fence()
