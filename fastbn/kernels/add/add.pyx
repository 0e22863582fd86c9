"""The sum of arrays of one shape, in one sweep over all of them."""

from libc.stdint cimport int64_t

cimport numpy as cnp

from fastbn.kernels.arguments cimport check_is, data, dense, float_of, output_of, overlaps
from fastbn.kernels.runtime cimport isa_level, run_tasks, streams, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK = 16384  # values


cdef const add_simd_t *add_simd(int element) noexcept nogil:
    return add_table(isa_level(), element)


cdef struct sum_t:
    const char *x[MOST_TERMS]
    char *y
    int64_t size
    int terms, itemsize
    bint stream
    const add_simd_t *simd


cdef void sum_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const sum_t *s = <const sum_t *>job
    cdef int64_t first = k * CHUNK, n = min(<int64_t>CHUNK, s.size - first), i
    cdef const void *x[MOST_TERMS]
    for i in range(s.terms):
        x[i] = s.x[i] + first * s.itemsize
    s.simd.sum_terms(x, s.terms, s.y + first * s.itemsize, n, s.stream)
    if s.stream:
        store_fence()


def total(tuple xs, object out):
    """Check the arguments of ``functional.add``, then compute it: from left to right."""
    cdef list arrays = []
    cdef cnp.ndarray first, y
    cdef sum_t s
    cdef int taken = 0, ndim, i
    cdef bint in_place = False
    if len(xs) < 2:
        raise ValueError(f"add: expected at least two arrays, got {len(xs)}")
    for index, value in enumerate(xs):
        arrays.append(dense(value, f"array {index}"))
    first = arrays[0]
    ndim = cnp.PyArray_NDIM(first)
    s.simd = add_simd(float_of(first, "array 0"))
    for index, value in enumerate(arrays):
        check_is(value, ndim, cnp.PyArray_DIMS(first), cnp.PyArray_TYPE(first), f"array {index}")
    y = output_of(out, ndim, cnp.PyArray_DIMS(first), cnp.PyArray_TYPE(first), "out")
    for index, value in enumerate(arrays):
        if overlaps(y, value):
            if data(y) != data(value) or index >= MOST_TERMS:
                raise ValueError(f"out overlaps array {index}: it may be one of the first "
                                 f"{MOST_TERMS} arrays, or must be apart from all")
            in_place = True
    s.y, s.size, s.itemsize = <char *>data(y), cnp.PyArray_SIZE(y), cnp.PyArray_ITEMSIZE(y)
    s.stream = (not in_place and len(arrays) <= MOST_TERMS
                and streams(<double>cnp.PyArray_NBYTES(y), len(arrays) + 1))
    while taken < len(arrays):
        s.terms = 0
        if taken:
            s.x[0], s.terms = s.y, 1
        for i in range(taken, min(<int>len(arrays), taken + MOST_TERMS - s.terms)):
            s.x[s.terms] = <char *>data(arrays[i])
            s.terms += 1
            taken += 1
        with nogil:
            run_tasks(sum_chunk, &s, (s.size + CHUNK - 1) // CHUNK,
                      team(<double>s.size * s.itemsize * (s.terms + 1)))
    return y
