"""Group normalisation, forward and backward; instance normalisation is that of single channels.

A sample's groups are batches of their own, so all of its arithmetic is that of batch normalisation
(batchnorm/table.h), sample by sample: moments of channels or planes, merged within a group in
float64, then one pass that normalises. What a task reads twice is a sample's part that caches hold.

Samples are cut into at most MOST_BLOCKS blocks, whose gradients of weight and bias are added in
their order. In NCHW a block is cut into sets of groups besides; a group is one contiguous plane. In
NHWC rows of pixels are cut into chunks of CHUNK_BYTES, whose moments are merged in their order.
A task is a block, or a chunk of a sample where there are fewer samples than threads: the cuts, and
so the results, are the same. Planes that do not fill a vector (fewer than SMALL values) are taken
as one row of NHWC, whose coefficients repeat.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    arrays_t, check_arrays, data, dense, dense_vector, element_of, output, reads, real_number,
    writes,
)
from fastbn.kernels.batchnorm cimport (
    ACT_NONE, ACT_SMOOTH, GROUP, STAGGER_BYTES, TILE, act_t, activation_of, affine_of, affine_t,
    affines_t, batchnorm_simd, batchnorm_simd_t, careful_t, is_extreme, moved, parameter, planes_t,
    put, rounded, tensors_t,
)
from fastbn.kernels.runtime cimport BF16, F64, LINE_BYTES, run_tasks, scratch, streams, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK_BYTES = 1 << 18  # of x: rows of NHWC whose moments are taken at once
    SET_BYTES = 1 << 17    # of x: groups of NCHW that are normalised while L2 holds them
    MOST_BLOCKS = 64
    MOST_TOGETHER = 1024   # values of planes that are taken several at a time: a block holds them
    SMALL = 32             # values: the widest vector's

cdef struct call_t:
    int element, itemsize, size  # size: bytes of a coefficient
    int64_t N, C, G, width       # width: channels of a group
    int64_t inner, count         # pixels; values of a group
    bint nhwc
    int64_t blocks, chunks, sets, groups  # groups: of a set
    int threads, stream
    double eps
    act_t act
    tensors_t t
    tensors_t z        # backward of a smooth activation: x, dy, and in y room for dz, which is dy
    act_t smooth       # to all others, as if there were no activation
    const void *weight
    const void *bias
    double *mean       # N * G, as invstd
    double *invstd
    double *parts      # sums of blocks: 2 * C numbers each; NULL in forward
    double *chunk_parts  # of chunks, 2 * C numbers each, where tasks are chunks; else NULL
    bint failed


cdef class GroupNormSaved:
    """What backward needs: x, weight and bias themselves, and two numbers for every group."""

    cdef readonly object x, weight, bias
    cdef int axis
    cdef int64_t groups
    cdef act_t act
    cdef double eps
    cdef double *mean
    cdef double *invstd

    def __dealloc__(self):
        free(self.mean)


# ---- shared by forward and backward ----

cdef inline int64_t first_of_block(const call_t *k, int64_t block) noexcept nogil:
    return k.N * block // k.blocks


cdef inline int64_t first_row(const call_t *k, int64_t chunk) noexcept nogil:
    return k.inner * chunk // k.chunks


cdef inline int64_t coefficients_step(const call_t *k) noexcept nogil:
    """From one array of coefficients to the next, with room for whole vectors."""
    return (k.C * k.size + 2 * LINE_BYTES + STAGGER_BYTES) // LINE_BYTES * LINE_BYTES


cdef inline int64_t sample_bytes(const call_t *k) noexcept nogil:
    return k.C * k.inner * k.itemsize


cdef tensors_t sample(const call_t *k, const tensors_t *all, int64_t n) noexcept nogil:
    cdef tensors_t t
    cdef int64_t at = n * sample_bytes(k)
    t.x, t.dy, t.residual = moved(all.x, at), moved(all.dy, at), NULL
    t.y, t.dx, t.dresidual = moved(all.y, at), moved(all.dx, at), NULL
    return t


cdef affine_t channel_affine(const call_t *k, int64_t n, int64_t c) noexcept nogil:
    cdef int64_t group = n * k.G + c // k.width
    return affine_of(k.mean[group], k.invstd[group], parameter(k.weight, c, k.element, 1.0),
                     parameter(k.bias, c, k.element, 0.0), k.element)


cdef affines_t sample_affines(const call_t *k, int64_t n, char *memory) noexcept nogil:
    """The coefficients of all channels of a sample, in `memory`."""
    cdef affines_t f
    cdef int64_t step = coefficients_step(k), c
    cdef affine_t one
    f.centre, f.a, f.b = memory, memory + step, memory + 2 * step
    f.k0, f.k1 = memory + 3 * step, memory + 4 * step
    for c in range(k.C):
        one = channel_affine(k, n, c)
        put(f.centre, c, k.element, one.centre)
        put(f.a, c, k.element, one.a)
        put(f.b, c, k.element, one.b)
    return f


cdef void group_moments(const call_t *k, int64_t n, const double *mean,
                        const double *m2) noexcept nogil:
    """From the moments of a sample's channels, k.inner values each: k.mean and k.invstd."""
    cdef int64_t g, c
    cdef double centre, squares
    for g in range(k.G):
        centre = squares = 0.0
        for c in range(g * k.width, (g + 1) * k.width):
            centre += mean[c]
        centre /= k.width
        for c in range(g * k.width, (g + 1) * k.width):
            squares += m2[c] + k.inner * (mean[c] - centre) * (mean[c] - centre)
        settle_group(k, n * k.G + g, centre, squares)


cdef inline void settle_group(const call_t *k, int64_t group, double mean,
                              double m2) noexcept nogil:
    k.mean[group] = mean
    k.invstd[group] = 1.0 / sqrt(m2 / k.count + k.eps)


cdef void fail(const call_t *k) noexcept nogil:
    (<call_t *>k).failed = True


cdef void group_terms(const call_t *k, int64_t n, int64_t g, double *sum_d, double *sum_dx,
                      double *part, double *k0, double *k1) noexcept nogil:
    """From the sums of d and d * (x - centre) of a group's channels (sum_d[c], the group's first
    one at 0): those of the block grow by dweight's and dbias' share, and

        dx = a * d + (x - centre) * k1 + k0
           = invstd * (g - mean(g) - xhat * mean(g * xhat)),  g = weight * d
    """
    cdef int64_t group = n * k.G + g, c, first = g * k.width
    cdef double mean = k.mean[group], invstd = k.invstd[group], weight, dx
    cdef double centre = rounded(mean, k.element), total = 0.0, product = 0.0
    for c in range(k.width):
        dx = (sum_dx[c] + (centre - mean) * sum_d[c]) * invstd  # of d * xhat
        weight = parameter(k.weight, first + c, k.element, 1.0)
        total += weight * sum_d[c]
        product += weight * dx
        part[first + c] += dx
        part[k.C + first + c] += sum_d[c]
    k1[0] = -invstd * invstd * (product / k.count)
    k0[0] = k1[0] * (centre - mean) - invstd * (total / k.count)


include "nhwc.pxi"
include "nchw.pxi"


cdef void careful_task(const void *job, int64_t block) noexcept nogil:
    """The gradients of all samples of a block, whatever their scale."""
    cdef const call_t *k = <const call_t *>job
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.element)
    cdef double *part = k.parts + 2 * k.C * block
    cdef int64_t n, g, c, group, at = 1 if k.nhwc else k.inner
    cdef double dweight, dbias, mean_g, mean_g_xhat
    cdef planes_t planes
    cdef careful_t f
    cdef tensors_t t, z
    planes.planes, planes.length, planes.stride = 1, k.inner, k.C
    if k.nhwc:
        planes.planes, planes.length = k.inner, 1
    memset(part, 0, 2 * k.C * sizeof(double))
    for n in range(first_of_block(k, block), first_of_block(k, block + 1)):
        t, z = sample(k, &k.t, n), sample(k, &k.z, n)
        for g in range(k.G):
            group = n * k.G + g
            f.mean, f.invstd = k.mean[group], k.invstd[group]
            mean_g = mean_g_xhat = 0.0
            for c in range(g * k.width, (g + 1) * k.width):
                f.weight = parameter(k.weight, c, k.element, 1.0)
                f.bias = parameter(k.bias, c, k.element, 0.0)
                if z.y != NULL:
                    simd.careful_smooth(&z, &planes, c * at, &f, &k.smooth)
                simd.careful_sums(&t, &planes, c * at, &f, &k.act, &dweight, &dbias)
                part[c] += dweight
                part[k.C + c] += dbias
                mean_g = mean_g + f.weight * dbias / k.count
                mean_g_xhat = mean_g_xhat + f.weight * dweight / k.count
            for c in range(g * k.width, (g + 1) * k.width if t.dx != NULL else 0):
                f.weight = parameter(k.weight, c, k.element, 1.0)
                f.bias = parameter(k.bias, c, k.element, 0.0)
                simd.careful_gradient(&t, &planes, c * at, &f, &k.act, mean_g, mean_g_xhat)


# ---- who does what ----

cdef int compute_forward(call_t *k) noexcept nogil:
    cdef int64_t n
    if not k.nhwc:
        run_tasks(forward_nchw, k, k.blocks * k.sets, k.threads)
    elif k.N >= k.threads or k.chunks == 1:
        run_tasks(forward_nhwc, k, k.blocks, k.threads)
    else:
        k.chunk_parts = <double *>scratch(0, 2 * k.C * k.N * k.chunks * sizeof(double))
        if k.chunk_parts == NULL:
            return -1
        run_tasks(moments_task, k, k.N * k.chunks, k.threads)
        for n in range(k.N):
            settle_sample(k, n, k.chunk_parts + 2 * k.C * k.chunks * n)
        run_tasks(apply_task, k, k.N * k.chunks, k.threads)
    return -1 if k.failed else 0


cdef int compute_backward(call_t *k) noexcept nogil:
    cdef int64_t n, step = coefficients_step(k)
    cdef char *memory
    cdef affines_t f
    k.parts = <double *>scratch(3, 2 * k.C * k.blocks * sizeof(double))
    if k.parts == NULL:
        return -1
    if is_extreme(k.invstd, k.N * k.G, k.element):
        run_tasks(careful_task, k, k.blocks, k.threads)
    elif not k.nhwc:
        run_tasks(backward_nchw, k, k.blocks * k.sets, k.threads)
    elif k.N >= k.threads or k.chunks == 1 or k.N > k.blocks:
        run_tasks(backward_nhwc, k, k.blocks, k.threads)
    else:  # fewer samples than threads: a block is a sample
        k.chunk_parts = <double *>scratch(
            0, 2 * k.C * k.N * k.chunks * sizeof(double) + 5 * step * k.N)
        if k.chunk_parts == NULL:
            return -1
        memory = <char *>(k.chunk_parts + 2 * k.C * k.N * k.chunks)
        memset(memory, 0, 5 * step * k.N)
        memset(k.parts, 0, 2 * k.C * k.blocks * sizeof(double))
        run_tasks(sums_task, k, k.N * k.chunks, k.threads)
        for n in range(k.N):
            settle_sums(k, n, k.chunk_parts + 2 * k.C * k.chunks * n, k.parts + 2 * k.C * n,
                        memory + 5 * step * n, &f)
        if k.t.dx != NULL:
            run_tasks(gradient_task, k, k.N * k.chunks, k.threads)
    return -1 if k.failed else 0


# ---- argument checks ----

cdef call_t call_on(cnp.ndarray x, int axis, int64_t groups, double eps, int arrays) noexcept:
    """A call without tensors, statistics and parameters."""
    cdef call_t k
    cdef int i, ndim = cnp.PyArray_NDIM(x)
    cdef double nbytes = <double>cnp.PyArray_SIZE(x) * cnp.PyArray_ITEMSIZE(x)
    memset(&k, 0, sizeof(k))
    k.element, k.itemsize = element_of(x, "x"), cnp.PyArray_ITEMSIZE(x)
    k.size = sizeof(double) if k.element == F64 else sizeof(float)
    k.N, k.C, k.G, k.eps = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, axis), groups, eps
    k.width = k.C // k.G
    k.inner = 1
    for i in range(1, ndim):
        if i != axis:
            k.inner *= cnp.PyArray_DIM(x, i)
    k.count = k.width * k.inner
    k.nhwc = axis == ndim - 1
    k.blocks = min(k.N, <int64_t>MOST_BLOCKS)
    k.chunks = max(1, min(k.inner, k.C * k.inner * k.itemsize // CHUNK_BYTES))
    k.groups = max(1, min(min(k.G, <int64_t>GROUP), SET_BYTES // max(1, k.count * k.itemsize)))
    k.sets = (k.G + k.groups - 1) // k.groups
    k.threads = team(nbytes * arrays)
    k.stream = streams(nbytes, arrays)
    return k


def forward(object x_, object num_groups, object weight, object bias, object eps_, object axis_,
            object activation, object negative_slope, object out):
    """Check the arguments of ``functional.group_norm``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef int element = element_of(x, "x"), ndim = cnp.PyArray_NDIM(x), axis, status
    cdef int number = cnp.NPY_FLOAT32 if element == BF16 else cnp.PyArray_TYPE(x)
    cdef int64_t C, groups
    cdef act_t act = activation_of(activation, negative_slope)
    cdef double eps = real_number(eps_, "eps")
    cdef GroupNormSaved saved
    cdef arrays_t a
    cdef call_t k
    shape = (<object>x).shape
    if ndim < 2:
        raise ValueError(f"expected an input of 2 or more dimensions, got {ndim}D input")
    if axis_ != -1 and axis_ != 1 and axis_ != ndim - 1:
        raise ValueError(f"axis should be 1 (NCHW) or -1 (channels-last), got {axis_}")
    axis = ndim - 1 if axis_ == -1 else axis_
    C = cnp.PyArray_DIM(x, axis)
    if not isinstance(num_groups, int) or not 0 < num_groups <= max(1, C) or C % num_groups:
        raise ValueError(f"num_groups should divide the number of channels, got {num_groups!r} for "
                         f"{C} channels (input of shape {shape})")
    groups = num_groups
    if not eps >= 0.0:
        raise ValueError(f"eps should not be negative, got {eps}")
    weight = dense_vector(weight, "weight", C, number)
    bias = dense_vector(bias, "bias", C, number)
    k = call_on(x, axis, groups, eps, 2)
    if cnp.PyArray_SIZE(x) and k.count < 2:
        raise ValueError(f"Expected more than 1 value per group, got input size {shape} and "
                         f"{groups} groups")
    y = output(out, x, "out")
    a.count = 0
    writes(&a, y, b"out")
    reads(&a, x, b"x")
    reads(&a, weight, b"weight")
    reads(&a, bias, b"bias")
    check_arrays(&a)
    saved = GroupNormSaved.__new__(GroupNormSaved)
    saved.x, saved.weight, saved.bias = x, weight, bias
    saved.axis, saved.groups, saved.act, saved.eps = axis, groups, act, eps
    saved.mean = <double *>malloc(max(1, 2 * k.N * k.G * sizeof(double)))
    if saved.mean == NULL:
        raise MemoryError
    saved.invstd = saved.mean + k.N * k.G
    if cnp.PyArray_SIZE(x) == 0:
        return y, saved
    k.act, k.weight, k.bias = act, data(weight), data(bias)
    k.mean, k.invstd = saved.mean, saved.invstd
    k.t.x, k.t.y = <char *>data(x), <char *>data(y)
    with nogil:
        status = compute_forward(&k)
    if status:
        raise MemoryError
    return y, saved


def backward(object dy_, object saved_, bint need_dx, bint need_dweight, bint need_dbias,
             object out, object dweight, object dbias):
    """Check the arguments of ``functional.group_norm_backward``, then compute it."""
    if not isinstance(saved_, GroupNormSaved) or (<GroupNormSaved>saved_).mean == NULL:
        raise TypeError("saved is not what group_norm or instance_norm returned")
    cdef GroupNormSaved saved = saved_
    cdef cnp.ndarray x = saved.x, dy = dense(dy_, "dy")
    cdef arrays_t a
    cdef call_t k
    cdef int64_t c, block
    cdef int status
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if not cnp.PyArray_SAMESHAPE(dy, x):
        raise ValueError(f"dy: expected shape {(<object>x).shape}, got {(<object>dy).shape}")
    need_dweight = need_dweight and saved.weight is not None
    need_dbias = need_dbias and saved.bias is not None
    dx = output(out, x, "out") if need_dx else None
    dweight = output(dweight, saved.weight, "dweight") if need_dweight else None
    dbias = output(dbias, saved.bias, "dbias") if need_dbias else None
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
    k = call_on(x, saved.axis, saved.groups, saved.eps, 3)
    k.act, k.weight, k.bias = saved.act, data(saved.weight), data(saved.bias)
    k.mean, k.invstd = saved.mean, saved.invstd
    k.t.x, k.t.dy, k.t.dx = <char *>data(x), <char *>data(dy), <char *>data(dx)
    if k.act.kind == ACT_SMOOTH:
        room = output(None, x, "dy") if dx is None else dx  # dx has room for dz until it is known
        k.z, k.smooth = k.t, k.act
        k.z.y = k.t.dy = <char *>data(room)
        k.act.kind = ACT_NONE
    k.stream = k.stream if k.t.dx != k.t.dy else 0
    with nogil:
        status = compute_backward(&k)
    if status:
        raise MemoryError
    for block in range(1, k.blocks):
        for c in range(2 * k.C):
            k.parts[c] += k.parts[2 * block * k.C + c]
    for c in range(k.C):
        if dweight is not None:
            put(data(dweight), c, k.element, k.parts[c])
        if dbias is not None:
            put(data(dbias), c, k.element, k.parts[k.C + c])
    return dx, dweight, dbias
