"""Arrays side by side along their last axis, and the parts of one: copies of short runs."""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

cimport numpy as cnp

from fastbn.kernels.arguments cimport check_filled, dense, output_of, overlaps, product_element
from fastbn.kernels.runtime cimport run_tasks, scratch, team

cnp.import_array()

cdef enum:
    ROWS = 512  # of a task


cdef struct part_t:
    char *data
    int64_t size    # bytes of a row
    int64_t offset  # bytes in front of it in a row of the whole


cdef struct work_t:
    const part_t *parts
    int64_t count   # of them
    char *whole
    int64_t rows
    int64_t size    # bytes of a row
    bint apart      # out of the whole, not into it


cdef void copy_rows(const void *job, int64_t task) noexcept nogil:
    """Some rows of all parts."""
    cdef const work_t *w = <const work_t *>job
    cdef int64_t row, k, size
    cdef char *part
    cdef char *place
    for row in range(task * ROWS, min(w.rows, (task + 1) * ROWS)):
        for k in range(w.count):
            size = w.parts[k].size
            part = w.parts[k].data + row * size
            place = w.whole + row * w.size + w.parts[k].offset
            memcpy(part if w.apart else place, place if w.apart else part, size)


cdef int run(list arrays, cnp.ndarray whole, bint apart) except -1:
    cdef int64_t offset = 0, k
    cdef int threads = team(2.0 * cnp.PyArray_NBYTES(whole))
    cdef part_t *parts = <part_t *>scratch(0, len(arrays) * sizeof(part_t))
    cdef cnp.ndarray array
    cdef work_t w
    if parts == NULL:
        raise MemoryError
    for k in range(len(arrays)):
        array = <cnp.ndarray>arrays[k]
        parts[k].data = cnp.PyArray_BYTES(array)
        parts[k].size = (cnp.PyArray_DIM(array, cnp.PyArray_NDIM(array) - 1)
                         * cnp.PyArray_ITEMSIZE(array))
        parts[k].offset = offset
        offset += parts[k].size
    w.parts, w.count, w.whole, w.apart = parts, len(arrays), cnp.PyArray_BYTES(whole), apart
    w.size = offset
    w.rows = cnp.PyArray_NBYTES(whole) // w.size if w.size else 0
    with nogil:
        run_tasks(copy_rows, &w, (w.rows + ROWS - 1) // ROWS, threads)
    return 0


cdef class ConcatSaved:
    """What backward needs: the shapes of the parts, and of all."""

    cdef readonly tuple shapes
    cdef readonly tuple output_shape
    cdef readonly object dtype


def join(tuple xs, object out):
    """Check the arguments of ``functional.concat``, then copy them."""
    cdef list arrays = []
    cdef cnp.ndarray x, first, y
    cdef cnp.npy_intp[32] shape
    cdef ConcatSaved saved
    cdef int axis, k
    if not xs:
        raise ValueError("concat: expected at least one array")
    for index, value in enumerate(xs):
        arrays.append(dense(value, f"array {index}"))
    first = arrays[0]
    product_element(first, "array 0")
    axis = cnp.PyArray_NDIM(first) - 1
    if axis < 0 or axis > 31:
        raise ValueError("array 0: expected at least one axis, got shape ()")
    for k in range(axis):
        shape[k] = cnp.PyArray_DIM(first, k)
    shape[axis] = 0
    lead = (<object>first).shape[:axis]
    for index, value in enumerate(arrays):
        x = value
        if cnp.PyArray_TYPE(x) != cnp.PyArray_TYPE(first):
            raise TypeError(f"array {index}: expected {first.dtype}, got {x.dtype}")
        if cnp.PyArray_NDIM(x) != axis + 1 or (<object>x).shape[:axis] != lead:
            raise ValueError(f"Sizes of tensors must match except in the last dimension: array "
                             f"{index} has shape {(<object>x).shape}, array 0 "
                             f"{(<object>first).shape}")
        shape[axis] += cnp.PyArray_DIM(x, axis)
    y = output_of(out, axis + 1, shape, cnp.PyArray_TYPE(first), "out")
    for index, value in enumerate(arrays):
        if overlaps(y, value):
            raise ValueError(f"out must not overlap array {index}")
    run(arrays, y, False)
    saved = ConcatSaved.__new__(ConcatSaved)
    saved.shapes = tuple([(<object>value).shape for value in arrays])
    saved.output_shape, saved.dtype = (<object>y).shape, first.dtype
    return y, saved


def part(object dy_, ConcatSaved saved not None, object out):
    """Check the arguments of ``functional.concat_backward``, then copy dy's parts."""
    check_filled(saved.shapes, "concat")
    cdef cnp.ndarray dy = dense(dy_, "dy"), dx
    cdef cnp.npy_intp[32] shape
    cdef list parts = []
    if dy.dtype != saved.dtype:
        raise TypeError(f"dy: expected {saved.dtype}, got {dy.dtype}")
    if (<object>dy).shape != saved.output_shape:
        raise ValueError(f"dy: expected shape {saved.output_shape}, got {(<object>dy).shape}")
    if out is None:
        out = (None,) * len(saved.shapes)
    if len(out) != len(saved.shapes):
        raise ValueError(f"out: expected {len(saved.shapes)} arrays, got {len(out)}")
    for index, (sizes, destination) in enumerate(zip(saved.shapes, out)):
        for k, size in enumerate(sizes):
            shape[k] = size
        dx = output_of(destination, len(sizes), shape, cnp.PyArray_TYPE(dy), f"out {index}")
        for other in (dy, *parts):
            if overlaps(dx, other):
                raise ValueError(f"out {index} must overlap neither dy nor another one")
        parts.append(dx)
    run(parts, dy, True)
    return tuple(parts)
