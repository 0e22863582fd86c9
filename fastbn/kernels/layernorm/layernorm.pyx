"""Layer and root-mean-square normalisation of rows, forward and backward.

A row is normalised by itself. Its moments are those that batch normalisation takes of a plane
(batchnorm/table.h), as robust against offsets; the mean square is m2 / n + mean². Some rows are
taken at once, so few that the first cache holds them until they are normalised: a residual is added
to them first. In backward an activation's gradient is taken just before the rows are read for dx.

Rows are cut into chunks by their size. In backward every chunk adds up its gradients of weight and
bias in float64, and the chunks' are added in their order.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np
cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    arrays_t, check_arrays, data, dense, element_of, gradient_of, output, reads, real_number,
    writes,
)
from fastbn.kernels.batchnorm cimport (
    ACT_LEAKY, ACT_NONE, ACT_SMOOTH, GROUP, SUM_ROWS, act_t, activation_of, batchnorm_simd,
    planes_t, put, rounded, tensors_t,
)
from fastbn.kernels.runtime cimport (
    BF16, F64, LINE_BYTES, isa_level, run_tasks, scratch, streams, team,
)

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef extern from "common/operations.h" nogil:
    enum:
        MAP_RELU
        MAP_LEAKY

cdef extern from "layernorm/table.h" nogil:
    ctypedef struct row_t:
        double centre
        double a
        double e

    ctypedef struct layernorm_simd_t:
        void (*prepare)(const void *values, double fill, int64_t n, void *to) noexcept nogil
        void (*rows_forward)(const void *x, void *y, int64_t rows, int64_t n, const row_t *f,
                             const void *weight, const void *bias, int stream) noexcept nogil
        void (*rows_activated)(const void *x, const void *dy, void *y, int64_t rows, int64_t n,
                               const row_t *f, const void *weight, const void *bias, int op,
                               double parameter, int stream) noexcept nogil
        void (*add)(const void *x, const void *residual, void *sum, void *far,
                    int64_t n) noexcept nogil
        void (*rows_backward)(const void *x, const void *dy, void *dx, int64_t rows, int64_t n,
                              const row_t *f, const void *weight, int rms, void *room,
                              double *dweight, double *dbias, int stream) noexcept nogil

    const layernorm_simd_t *layernorm_table(int level, int element)

cdef enum:
    NEAR_BYTES = 24576         # rows that the first cache holds
    FORWARD_BYTES = 1 << 16    # of a chunk
    BACKWARD_BYTES = 1 << 17
    DZ_BYTES = 1 << 18         # of rows whose dz waits in the second cache
    FEWEST_ROWS = 16           # of a chunk in backward, whose sums cost as much as some rows
    MOST_CHUNKS = 64           # in backward
    MOST_TOGETHER = 4096       # values of rows that are taken several at a time: a block holds them
    SMALL = 32                 # values: of shorter rows one at a time is taken for its moments


cdef struct call_t:
    int element, itemsize, size
    int64_t rows, n, chunks
    int threads, stream
    bint rms
    const char *x      # or where there is a residual, the sum
    const char *terms[2]  # of the sum
    char *sum          # NULL: without a residual
    const char *dy
    char *y            # or dx
    act_t act
    char *weight       # prepared
    char *bias
    row_t *f           # of every row
    double eps
    double *parts      # sums of chunks: 2 * n numbers each
    bint failed


cdef class LayerNormSaved:
    """What backward needs: x (or its sum with the residual), weight and bias themselves, and three
    numbers for every row."""

    cdef readonly object x, weight, bias
    cdef tuple shape
    cdef readonly bint rms
    cdef act_t act
    cdef int64_t rows, n
    cdef row_t *f

    def __dealloc__(self):
        free(self.f)


cdef inline int64_t first_of_chunk(const call_t *k, int64_t chunk) noexcept nogil:
    return k.rows * chunk // k.chunks


cdef inline int64_t room_of(const call_t *k) noexcept nogil:
    """Bytes of n coefficients with room for whole vectors."""
    return (k.n * k.size + 3 * LINE_BYTES) // LINE_BYTES * LINE_BYTES


cdef inline int operation_of(const act_t *act) noexcept nogil:
    """The activation's number (common/operations.h)."""
    if act.kind == ACT_SMOOTH:
        return act.smooth
    return MAP_LEAKY if act.kind == ACT_LEAKY else MAP_RELU


cdef inline void fail(const call_t *k) noexcept nogil:
    (<call_t *>k).failed = True


cdef row_t row_of(const call_t *k, double mean, double m2) noexcept nogil:
    cdef row_t f
    cdef double var = m2 / k.n, a
    if k.rms:
        f.centre = f.e = 0.0
        f.a = 1.0 / sqrt(var + mean * mean + k.eps)
        return f
    a = 1.0 / sqrt(var + k.eps)
    f.centre = rounded(mean, k.element)
    f.a, f.e = a, (f.centre - mean) * a
    return f


# ---- forward ----

cdef void forward_chunk(const void *job, int64_t chunk) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    cdef int64_t i = first_of_chunk(k, chunk), last = first_of_chunk(k, chunk + 1), now, r, at
    cdef int64_t most = min(<int64_t>GROUP, NEAR_BYTES // (k.n * k.itemsize))
    # rows that come from memory one by one, so that it is read and written in turns
    cdef int64_t near = 1 if k.stream else max(<int64_t>1, most)
    cdef int64_t together = near if SMALL <= k.n <= MOST_TOGETHER else 1
    cdef const layernorm_simd_t *simd = layernorm_table(isa_level(), k.element)
    cdef planes_t planes
    cdef tensors_t t
    cdef act_t act
    cdef double mean[GROUP]
    cdef double m2[GROUP]
    cdef char *room = NULL
    cdef char *sum
    if k.sum != NULL and k.stream:  # memory gets the sum, and the first cache a copy
        room = <char *>scratch(1, near * k.n * k.itemsize)
        if room == NULL:
            fail(k)
            return
    memset(&t, 0, sizeof(t))
    act.kind, act.slope, act.smooth = ACT_NONE, 0.0, 0
    planes.planes, planes.length, planes.stride = 1, k.n, k.rows * k.n
    while i < last:
        now = min(near, last - i)
        at = i * k.n * k.itemsize
        t.x = k.x + at
        if k.sum != NULL:
            sum = k.sum + at if room == NULL else room
            simd.add(k.terms[0] + at, k.terms[1] + at, sum, k.sum + at if room != NULL else NULL,
                     now * k.n)
            t.x = sum
        r = 0
        while r < now:
            batchnorm_simd(k.element).nchw_forward(&t, &planes, r, 0, NULL,
                                                   min(together, now - r), mean + r, m2 + r, &act,
                                                   False, 0)
            r = r + together
        for r in range(now):
            k.f[i + r] = row_of(k, mean[r], m2[r])
        if k.act.kind == ACT_NONE:
            simd.rows_forward(t.x, k.y + at, now, k.n, k.f + i, k.weight, k.bias, k.stream)
        else:
            # what a smooth activation leaves is too little at a time to be written past the caches
            simd.rows_activated(t.x, NULL, k.y + at, now, k.n, k.f + i, k.weight, k.bias,
                                operation_of(&k.act), k.act.slope,
                                k.stream if k.act.kind != ACT_SMOOTH else 0)
        i = i + now
    store_fence()


# ---- backward ----

cdef void backward_chunk(const void *job, int64_t chunk) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    cdef int64_t i = first_of_chunk(k, chunk), last = first_of_chunk(k, chunk + 1), now, at
    cdef int64_t most = SUM_ROWS, row_bytes = k.n * k.itemsize
    cdef const layernorm_simd_t *simd = layernorm_table(isa_level(), k.element)
    cdef const char *dy
    cdef char *dz = NULL
    cdef double *part = k.parts + 2 * k.n * chunk
    cdef void *room = scratch(1, 2 * room_of(k))
    if k.act.kind != ACT_NONE:
        most = max(<int64_t>1, min(most, DZ_BYTES // row_bytes))
        dz = <char *>scratch(2, most * row_bytes)
    if room == NULL or (k.act.kind != ACT_NONE and dz == NULL):
        fail(k)
        return
    memset(part, 0, 2 * k.n * sizeof(double))
    while i < last:
        now = min(most, last - i)
        at = i * row_bytes
        dy = k.dy + at
        if dz != NULL:
            simd.rows_activated(k.x + at, dy, dz, now, k.n, k.f + i, k.weight, k.bias,
                                operation_of(&k.act), k.act.slope, 0)
            dy = dz
        simd.rows_backward(
            k.x + at, dy, k.y + at if k.y != NULL else NULL, now, k.n, k.f + i, k.weight, k.rms,
            room, part, part + k.n, k.stream)
        i = i + now
    store_fence()


# ---- argument checks ----

cdef call_t call_on(cnp.ndarray x, int64_t n, bint rms, bint back) noexcept:
    cdef call_t k
    cdef double nbytes = <double>cnp.PyArray_SIZE(x) * cnp.PyArray_ITEMSIZE(x)
    memset(&k, 0, sizeof(k))
    k.element, k.itemsize, k.rms = element_of(x, "x"), cnp.PyArray_ITEMSIZE(x), rms
    k.size = sizeof(double) if k.element == F64 else sizeof(float)
    k.n = n
    k.rows = cnp.PyArray_SIZE(x) // n if n else 0
    k.chunks = <int64_t>nbytes // (BACKWARD_BYTES if back else FORWARD_BYTES)
    if back:
        k.chunks = min(min(k.chunks, k.rows // FEWEST_ROWS), <int64_t>MOST_CHUNKS)
    k.chunks = max(1, min(k.chunks, k.rows))
    k.threads = team(nbytes * (3 if back else 2))
    k.stream = streams(nbytes, 3 if back else 2)
    k.x = <char *>data(x)
    return k


cdef object parameter_of(object p, str what, tuple shape, cnp.ndarray x):
    """The parameter, contiguous; None where there is none."""
    if p is None:
        return None
    cdef cnp.ndarray array = dense(p, what)
    expected = np.dtype(np.float32) if element_of(x, "x") == BF16 else (<object>x).dtype
    if array.dtype != expected:
        raise TypeError(f"{what}: expected {expected}, got {array.dtype}")
    if (<object>array).shape != shape:
        raise ValueError(f"{what}: expected shape {shape}, got {(<object>array).shape}")
    return array


def forward(object x_, object weight, object bias, object normalized_shape, object eps, bint rms,
            object activation, object negative_slope, object residual, object total, object out):
    """Check the arguments of ``functional.layer_norm`` or ``rms_norm``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef act_t act = activation_of(activation, negative_slope)
    cdef LayerNormSaved saved
    cdef arrays_t a
    cdef call_t k
    element_of(x, "x")
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or (<object>x).shape[-len(shape):] != shape or len(shape) > cnp.PyArray_NDIM(x):
        raise ValueError(f"normalized_shape {shape} should be the last axes of the input's shape, "
                         f"got {(<object>x).shape}")
    if eps is None:
        import ml_dtypes
        eps = float(ml_dtypes.finfo((<object>x).dtype).eps)
    if not eps >= 0.0:
        raise ValueError(f"eps should not be negative, got {eps}")
    weight = parameter_of(weight, "weight", shape, x)
    bias = parameter_of(bias, "bias", shape, x)
    if residual is not None:
        residual = gradient_of(residual, x, "residual")
        total = output(total, x, "total")
    elif total is not None:
        raise ValueError("total is the sum of x and residual: it goes with a residual")
    y = output(out, x, "out")
    a.count = 0
    writes(&a, total, b"total")
    writes(&a, y, b"out")
    reads(&a, x, b"x", residual is not None)
    reads(&a, residual, b"residual", True)
    reads(&a, weight, b"weight")
    reads(&a, bias, b"bias")
    check_arrays(&a)
    k = call_on(x, int(np.prod(shape)), rms, False)
    if residual is not None:
        k.terms[0], k.terms[1] = k.x, <char *>data(residual)
        k.x = k.sum = <char *>data(total)
    k.eps = real_number(eps, "eps")
    saved = LayerNormSaved.__new__(LayerNormSaved)
    saved.x = x if residual is None else total
    saved.weight, saved.bias, saved.rms, saved.act = weight, bias, rms, act
    saved.rows, saved.n, saved.shape = k.rows, k.n, shape
    saved.f = <row_t *>malloc(max(1, k.rows * sizeof(row_t)))
    if saved.f == NULL:
        raise MemoryError
    if cnp.PyArray_SIZE(x) == 0:
        return y, saved
    k.f, k.y, k.act = saved.f, <char *>data(y), act
    prepare(&k, data(weight), data(bias), 0)
    with nogil:
        run_tasks(forward_chunk, &k, k.chunks, k.threads)
    if k.failed:
        raise MemoryError
    return y, saved


cdef int prepare(call_t *k, const void *weight, const void *bias, int64_t more) except -1:
    """Weight and bias as the loops read them, and room for so many bytes behind."""
    cdef int64_t step = room_of(k)
    cdef char *memory = <char *>scratch(0, 2 * step + more)
    cdef const layernorm_simd_t *simd = layernorm_table(isa_level(), k.element)
    if memory == NULL:
        raise MemoryError
    k.weight, k.bias, k.parts = memory, memory + step, <double *>(memory + 2 * step)
    simd.prepare(weight, 1.0, k.n, k.weight)
    simd.prepare(bias, 0.0, k.n, k.bias)
    return 0


def backward(object dy_, object saved_, bint need_dx, bint need_dweight, bint need_dbias,
             object out, object dweight, object dbias):
    """Check the arguments of ``layer_norm_backward`` or ``rms_norm_backward``, then compute it."""
    if not isinstance(saved_, LayerNormSaved) or (<LayerNormSaved>saved_).f == NULL:
        raise TypeError("saved is not what the forward returned")
    cdef LayerNormSaved saved = saved_
    cdef cnp.ndarray x = saved.x, dy = dense(dy_, "dy"), like
    cdef arrays_t a
    cdef call_t k
    cdef int64_t chunk, j
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if not cnp.PyArray_SAMESHAPE(dy, x):
        raise ValueError(f"dy: expected shape {(<object>x).shape}, got {(<object>dy).shape}")
    need_dweight = need_dweight and saved.weight is not None
    need_dbias = need_dbias and saved.bias is not None
    dx = output(out, x, "out") if need_dx else None
    if need_dweight or need_dbias:
        number = np.float64 if element_of(x, "x") == F64 else np.float32
        like = np.empty(saved.shape, number) if saved.weight is None else saved.weight
        dweight = output(dweight, like, "dweight") if need_dweight else None
        dbias = output(dbias, like, "dbias") if need_dbias else None
    else:
        dweight = dbias = None
    a.count = 0
    writes(&a, dx, b"out")
    writes(&a, dweight, b"dweight")
    writes(&a, dbias, b"dbias")
    reads(&a, dy, b"dy", dx is not None)
    reads(&a, x, b"x")
    reads(&a, saved.weight, b"weight")
    reads(&a, saved.bias, b"bias")
    check_arrays(&a)
    if cnp.PyArray_SIZE(x) == 0:
        for array in (dweight, dbias):
            if array is not None:
                array[...] = 0
        return dx, dweight, dbias
    k = call_on(x, saved.n, saved.rms, True)
    k.f, k.dy, k.y = saved.f, <char *>data(dy), <char *>data(dx)
    k.act = saved.act
    k.stream = k.stream if k.y != k.dy else 0
    prepare(&k, data(saved.weight), data(saved.bias), 2 * k.n * k.chunks * sizeof(double))
    with nogil:
        run_tasks(backward_chunk, &k, k.chunks, k.threads)
    if k.failed:
        raise MemoryError
    for chunk in range(1, k.chunks):
        for j in range(2 * k.n):
            k.parts[j] += k.parts[2 * chunk * k.n + j]
    for j in range(k.n):
        if dweight is not None:
            put(data(dweight), j, k.element, k.parts[j])
        if dbias is not None:
            put(data(dbias), j, k.element, k.parts[k.n + j])
    return dx, dweight, dbias
