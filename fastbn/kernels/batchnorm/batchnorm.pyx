"""Batch normalisation, forward and backward: who does what.

NCHW (nchw.pxi)
    A channel's values are planes of contiguous numbers, one in every sample. A thread takes a range
    of channels, a few at a time, and reads the next ones for their statistics while it writes those
    whose statistics are known: their values are still in its caches, and memory is busy both ways.
NHWC and (N, C) (nhwc.pxi)
    Channels lie side by side, so that a row of pixels holds some of every channel. Rows are cut
    into chunks; a thread takes the statistics of its chunks, all are merged in one order, and the
    thread goes back over its chunks, the last one first: that is what its caches still hold.

The cuts depend on the shape alone, never on the number of threads: results are the same to the bit
for every number of threads. Statistics are merged in float64, and x is taken about the rounded
mean, so that offsets cost no digits (shared.h). Loops over numbers are in the headers beside this
file, one function for each layout and direction; table.h lists them.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport fabs
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    arrays_t, check_arrays, check_filled, check_vector, data, dense, dense_vector, element_of,
    output, overlaps, reads, real_number, writes,
)
from fastbn.kernels.runtime cimport (
    BF16, F64, LINE_BYTES, PAGE_BYTES, is_far, isa_level, run_tasks, scratch, streams, team,
    this_thread,
)

from fastbn.kernels.activation import leaky_relu

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    STREAM_TILE = 8192       # NHWC: columns that are written at once past the caches
    GROUP_BYTES = 8192       # NCHW: what the planes of a group are together, at most;
    PIECE_BYTES = 65536      # the same in inference, which takes so much of a sample at a time
    SMALL_BYTES = 128        # planes up to this size are taken in tiles of channels;
    MOMENT_SMALL_BYTES = 192  # the same where moments are taken: a plane has costs of its own then
    SMALL_TILE_BYTES = 131072
    MOST_BIAS = 1024         # times the weight, for a y from which x can be found
    BLOCK_BYTES = 65536      # NHWC: rows that are written together
    CHUNK_BYTES = 262144     # of a chunk of rows, about;
    FEWEST_BYTES = 65536     # of a small array's, which is cut, too, at least, ...
    FEWEST_ROWS = 64         # ... and so many rows
    MOST_CHUNKS = 64

cdef double TINY_WEIGHT = 1e-30  # its inverse is finite in float32


cdef struct layout_t:
    bint nhwc          # the channels lie side by side
    int64_t outer      # NCHW: samples                   NHWC: rows
    int64_t inner      # NCHW: values of a plane         NHWC: 1
    int64_t C          # channels
    int64_t whole      # NCHW: channels that fill whole cache lines
    int64_t tile       # NCHW: channels of a tile where the spatial size is small, else 0
    int64_t group      # NCHW: channels of a sweep
    int64_t repeat     # NHWC: rows that are taken as one
    bint prefetch      # no cache may hold the data: it is fetched ahead
    int64_t count      # values of one channel
    int element
    int itemsize
    int64_t chunks     # NHWC: chunks of rows
    int threads


cdef struct call_t:        # what one call computes from
    layout_t l
    tensors_t t
    act_t act
    tensors_t z            # backward of a smooth activation: x, dy and residual, and in y room for
    act_t smooth           # dz, which is dy to all others, as if there were no activation
    int stream             # see streams
    const void *weight
    const void *bias
    double *mean
    double *invstd
    double *var            # forward: sums of squares about the mean, then the variance
    double eps
    bint batch             # forward: mean, var and invstd are taken from x
    void *dweight          # backward: NULL where it is not wanted
    void *dbias
    bint sums, frozen      # backward: sums are needed; the statistics are constants, ...
    const double *slope    # ... but for terms that are given: slope * (x - mean) + constant
    const double *constant
    double *parts          # NHWC: sums of every chunk, two for each column
    char *coefficients     # NHWC: see affines_at
    void *running_mean     # training: follow mean and var, by this factor; inference: mean and
    void *running_var      # invstd were found from them
    double factor
    bint inference
    char *affines          # NCHW, where statistics are known: see own_affines
    int64_t pieces         # the same: of a sample


cdef inline bint without_terms(const call_t *k) noexcept nogil:
    """Is dx = a * d all?"""
    return k.frozen and k.slope == NULL


cdef const batchnorm_simd_t *batchnorm_simd(int element) noexcept nogil:
    return batchnorm_table(isa_level(), element)


cdef int64_t whole_lines(const layout_t *l, int64_t most, int64_t nbytes) noexcept:
    """How many channels have `nbytes` in a sample: at most `most`, at least one, and a multiple of
    what fills whole cache lines, if that is not more than `most`."""
    cdef int64_t n = nbytes // max(1, l.inner * l.itemsize)
    if l.whole > most:
        return min(most, max(1, n))
    return min(most, max(l.whole, n)) // l.whole * l.whole


cdef layout_t layout_of(cnp.ndarray x, int axis, int element, int arrays,
                        int64_t most_small=SMALL_BYTES, int64_t most_group=GROUP_BYTES) noexcept:
    """The layout of a contiguous x; `arrays` of its size are read and written by the call.

    Planes of up to `most_small` bytes are taken in tiles, others in groups of about `most_group`.
    """
    cdef layout_t l
    cdef int ndim = cnp.PyArray_NDIM(x), i
    cdef int64_t total = cnp.PyArray_SIZE(x), chunks
    l.element = element
    l.itemsize = cnp.PyArray_ITEMSIZE(x)
    l.C = cnp.PyArray_DIM(x, axis)
    l.inner = 1
    for i in range(axis + 1, ndim):
        l.inner *= cnp.PyArray_DIM(x, i)
    l.count = total // l.C if l.C else 0
    l.nhwc = l.inner == 1
    l.outer = l.count // l.inner if l.inner else 0
    l.whole = 1
    while l.whole * l.inner * l.itemsize % LINE_BYTES and 2 * l.whole * l.inner <= TILE:
        l.whole *= 2
    l.tile = 0
    if not l.nhwc and l.inner * l.itemsize <= most_small:
        l.tile = whole_lines(&l, TILE // max(1, l.inner), SMALL_TILE_BYTES // max(1, l.outer))
    l.group = 1
    if l.inner * l.itemsize <= most_group // 4:  # longer planes are taken one by one
        l.group = whole_lines(&l, GROUP, most_group)
    l.repeat = 1
    if l.nhwc and 0 < l.C < 64:
        l.repeat = 64 // l.C
        while l.outer % l.repeat:
            l.repeat -= 1
        l.outer //= l.repeat
    # Planes are prefetched before caches are full, because L3 is shared with others.
    l.prefetch = is_far(<double>total * l.itemsize, arrays if l.nhwc else 2 * arrays)
    chunks = max(total * l.itemsize // CHUNK_BYTES,
                 min(total * l.itemsize // FEWEST_BYTES, l.outer // FEWEST_ROWS))
    l.chunks = min(max(1, chunks), MOST_CHUNKS, max(1, l.outer))
    l.threads = team(<double>total * l.itemsize * arrays)
    return l


cdef call_t call_on(layout_t l, cnp.ndarray x, object residual) noexcept:
    """A call that only reads: without outputs, parameters and activation."""
    cdef call_t k
    memset(&k, 0, sizeof(k))
    k.l, k.act.kind = l, ACT_NONE
    k.t.x, k.t.residual = <char *>data(x), <char *>data(residual)
    return k


cdef void gradient_terms(affine_t *f, double mean, double invstd, double count, double sum_d,
                         double sum_dx) noexcept nogil:
    """The terms of dx = a * (d - mean(d) - xhat * mean(d * xhat)); sum_dx is about the mean."""
    f.k1 = -f.a * invstd * invstd * (sum_dx / count)
    f.k0 = f.k1 * (f.centre - mean) - f.a * (sum_d / count)


cdef void move_running(const call_t *k, int64_t first, int64_t n) noexcept nogil:
    """The running statistics of n channels follow those of the batch, with unbiased variance."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.l.element)
    cdef int64_t at = first * (8 if k.l.element == F64 else 4)
    if k.running_mean != NULL:
        simd.move_running(n, k.factor, 1.0, k.mean + first, <char *>k.running_mean + at)
        simd.move_running(n, k.factor, k.l.count / (k.l.count - 1.0), k.var + first,
                          <char *>k.running_var + at)


cdef void settle_moments(const call_t *k, int64_t first, int64_t n) noexcept nogil:
    """From the sums of squares of n channels: var, invstd, and the running statistics."""
    batchnorm_simd(k.l.element).find_invstd(n, <double>k.l.count, k.eps, k.var + first,
                                            k.invstd + first)
    move_running(k, first, n)


cdef double *own_statistics(const call_t *k, int64_t thread, int64_t room) noexcept nogil:
    """Mean and invstd of inference in the thread's scratch, with so many bytes behind them.

    A thread finds them sooner than it gets what another one's cache holds. NULL where k.mean and
    k.invstd will do: in the calling thread, and where there is no memory.
    """
    cdef int64_t C = k.l.C
    cdef double *mean = NULL
    if thread and k.inference:
        mean = <double *>scratch(1, 2 * C * sizeof(double) + room)
    if mean != NULL:
        batchnorm_simd(k.l.element).read_running(C, k.eps, k.running_mean, k.running_var, mean,
                                                 mean + C)
    return mean


cdef inline int64_t affine_bytes(int64_t columns) noexcept nogil:
    """Room for the coefficients, wherever `in_phase` puts them."""
    return 5 * (columns * sizeof(double) + STAGGER_BYTES) + PAGE_BYTES


cdef inline char *in_phase(char *memory, const char *y) noexcept nogil:
    """Move on to where y stands within its page. Coefficients are read there or STAGGER_BYTES bytes
    further on, ahead of what is written: a load waits for a store before it whose address differs
    by a multiple of a page."""
    return memory + ((<int64_t>y - <int64_t>memory + LINE_BYTES - 1) & (PAGE_BYTES - LINE_BYTES))


include "nchw.pxi"
include "nhwc.pxi"
include "moments.pxi"


# ---- arguments are checked, arrays go in and out ----

cdef class BatchNormSaved:
    """What backward needs: x, residual, weight and bias themselves, and C numbers twice."""

    cdef readonly object x, residual, weight, bias
    cdef readonly bint training
    cdef readonly str overwritten  # the argument that `out` replaced, so that backward cannot run
    cdef readonly bint in_place    # x holds y: backward finds x from it
    cdef int axis
    cdef act_t act
    cdef double *mean
    cdef double *invstd
    cdef int64_t C

    def __dealloc__(self):
        PyMem_Free(self.mean)


cdef BatchNormSaved saved_of(cnp.ndarray x, object weight, object bias, object residual, int axis,
                             act_t act, bint training):
    """With room for 3 C numbers: mean, 1 / standard deviation, and what forward needs."""
    cdef BatchNormSaved saved = BatchNormSaved.__new__(BatchNormSaved)
    saved.x, saved.residual, saved.weight, saved.bias = x, residual, weight, bias
    saved.axis, saved.act, saved.training = axis, act, training
    saved.C = cnp.PyArray_DIM(x, axis)
    saved.mean = <double *>PyMem_Malloc(max(1, 3 * saved.C * sizeof(double)))
    if saved.mean == NULL:
        raise MemoryError
    saved.invstd = saved.mean + saved.C
    return saved


include "arguments.pxi"


def forward(object x_, object weight, object bias, object running_mean, object running_var,
            bint training, object momentum, object eps_, object axis_, object activation,
            object negative_slope, object residual_, object tracked, object moments, object out):
    """Check the arguments of ``functional.batch_norm``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), residual, y
    cdef int axis = axis_of(x, axis_), element = element_of(x, "x")
    cdef int number = cnp.NPY_FLOAT32 if element == BF16 else cnp.PyArray_TYPE(x)
    cdef int64_t C = cnp.PyArray_DIM(x, axis)
    cdef double factor = 0.0, eps = real_number(eps_, "eps")
    cdef bint batch = training and moments is None  # statistics are to be taken from x
    cdef layout_t l = layout_of(x, axis, element, 2 if residual_ is None else 3,
                                MOMENT_SMALL_BYTES if batch else SMALL_BYTES,
                                GROUP_BYTES if batch else PIECE_BYTES)
    cdef act_t act = activation_of(activation, negative_slope)
    cdef call_t k
    cdef bint tracks = running_mean is not None and running_var is not None
    cdef int64_t *count = count_of(tracked) if training else NULL
    cdef const batchnorm_simd_t *simd = batchnorm_simd(element)
    cdef BatchNormSaved saved
    cdef arrays_t a
    weight = dense_vector(weight, "weight", C, number)
    bias = dense_vector(bias, "bias", C, number)
    check_vector(running_mean, "running_mean", C, number)
    check_vector(running_var, "running_var", C, number)
    residual = residual_of(residual_, x)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var: give both or neither")
    if not eps >= 0.0:
        raise ValueError(f"eps should not be negative, got {eps}")
    if training:
        if l.count < 2:
            raise ValueError("Expected more than 1 value per channel when training, "
                             f"got input size {size_of(x)}")
        if tracks:
            factor = next_factor(momentum, count)
            for name, buffer in (("running_mean", running_mean), ("running_var", running_var)):
                if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>buffer):
                    raise ValueError(f"{name} is read-only and cannot be updated")
    elif not tracks:
        raise ValueError("Expected running_mean and running_var to be defined when training=False")
    if moments is not None:
        check_moments(moments, training, &l)
    if tracks:
        check_variances(running_var, element)
    y = output(out, x, "out")
    a.count = 0
    writes(&a, y, b"out")
    if training:
        writes(&a, running_mean, b"running_mean")
        writes(&a, running_var, b"running_var")
        writes(&a, tracked, b"num_batches_tracked")
    else:
        reads(&a, running_mean, b"running_mean")
        reads(&a, running_var, b"running_var")
    reads(&a, x, b"x", True)
    reads(&a, residual, b"residual", True)
    reads(&a, weight, b"weight")
    reads(&a, bias, b"bias")
    if moments is not None:
        reads(&a, moments[1], b"moments: mean")
        reads(&a, moments[2], b"moments: m2")
    check_arrays(&a)

    saved = saved_of(x, weight, bias, residual, axis, act, training)
    if out is not None:
        check_in_place(saved, y, training)
    k = call_on(l, x, residual)
    k.act, k.weight, k.bias, k.eps, k.batch = act, data(weight), data(bias), eps, batch
    k.mean, k.invstd, k.var = saved.mean, saved.invstd, saved.mean + 2 * C
    k.running_mean, k.running_var, k.inference = data(running_mean), data(running_var), not training
    if training:
        k.factor = factor
    else:
        simd.read_running(C, eps, k.running_mean, k.running_var, k.mean, k.invstd)
    if moments is not None:
        memcpy(k.mean, data(moments[1]), C * sizeof(double))
        memcpy(k.var, data(moments[2]), C * sizeof(double))
        simd.find_invstd(C, <double>l.count, eps, k.var, k.invstd)
    compute_forward(&k, y)
    if moments is not None:
        move_running(&k, 0, C)
    if count != NULL:
        count[0] += 1
    return y, saved


cdef int compute_forward(call_t *k, cnp.ndarray y) except -1:
    cdef int status
    k.t.y = <char *>data(y)
    # A smooth activation is arithmetic, not memory, and backward reads x soon. What replaces an
    # operand is in cache, and streaming sweeps may compute a value twice.
    if k.act.kind != ACT_SMOOTH and k.t.y != k.t.x and k.t.y != k.t.residual:
        k.stream = streams(<double>cnp.PyArray_NBYTES(y), 2 if k.t.residual == NULL else 3,
                           k.batch and not k.l.nhwc)
    if cnp.PyArray_SIZE(y) == 0:
        return 0
    with nogil:
        status = forward_nhwc(k) if k.l.nhwc else forward_nchw(k)
    if status:
        raise MemoryError
    return 0


cdef object rebuilt(BatchNormSaved saved, const layout_t *l, object dx):
    """x minus its mean, from the y that took its place: into dx, or a new array where it is None.

    y = act(a * (x - mean) + bias), and a leaky ReLU is undone by one of slope 1 / slope.
    """
    cdef cnp.ndarray y = saved.x, xc = output(dx, y, "out")
    cdef double *spare = saved.mean + 2 * saved.C
    cdef double *scale = <double *>PyMem_Malloc(saved.C * sizeof(double))
    cdef void *weight = data(saved.weight)
    cdef void *bias = data(saved.bias)
    cdef call_t k
    cdef int64_t c
    if scale == NULL:
        raise MemoryError
    try:
        if saved.act.kind == ACT_LEAKY:
            leaky_relu(y, 1.0 / saved.act.slope, xc)
            y = xc
        for c in range(saved.C):
            spare[c] = parameter(bias, c, l.element, 0.0)
            scale[c] = 1.0 / (parameter(weight, c, l.element, 1.0) * saved.invstd[c])
        k = call_on(l[0], y, None)
        k.mean, k.invstd = spare, scale
        compute_forward(&k, xc)
    finally:
        PyMem_Free(scale)
    memset(spare, 0, saved.C * sizeof(double))
    return xc


def backward(object dy_, BatchNormSaved saved not None, bint need_dx, bint need_dweight,
             bint need_dbias, bint need_dresidual, object out, object dweight, object dbias,
             object dresidual, object slope=None, object constant=None):
    """Check the arguments of ``functional.batch_norm_backward``, then compute it.

    With `slope` and `constant`, dx gets the terms slope * (x - mean) + constant; mean and variance
    have to be constants otherwise, as those of ``functional.scale_shift`` are."""
    check_filled(saved.x, "batch_norm")
    cdef cnp.ndarray x = saved.x, dy = dense(dy_, "dy")
    cdef int element = element_of(x, "x")
    cdef layout_t l = layout_of(x, saved.axis, element, 3)
    cdef bint has_residual = saved.residual is not None
    cdef arrays_t a
    cdef call_t k
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if not cnp.PyArray_SAMESHAPE(dy, x):
        raise ValueError(f"dy: expected shape {size_of(x)}, got {size_of(dy)}")
    if saved.overwritten is not None:
        raise ValueError(f"backward needs {saved.overwritten}, which out has overwritten")
    if saved.weight is None:
        need_dweight = False
    if saved.bias is None:
        need_dbias = False
    if (slope is None) != (constant is None) or (slope is not None and saved.training):
        raise ValueError("slope and constant go together, and with constant statistics")
    slope = dense_vector(slope, "slope", saved.C, cnp.NPY_FLOAT64)
    constant = dense_vector(constant, "constant", saved.C, cnp.NPY_FLOAT64)
    dx = output(out, x, "out") if need_dx else None
    dweight = output(dweight, saved.weight, "dweight") if need_dweight else None
    dbias = output(dbias, saved.bias, "dbias") if need_dbias else None
    dresidual = output(dresidual, x, "dresidual") if has_residual and need_dresidual else None
    a.count = 0
    writes(&a, dx, b"out")
    writes(&a, dweight, b"dweight")
    writes(&a, dbias, b"dbias")
    writes(&a, dresidual, b"dresidual")
    reads(&a, dy, b"dy", dx is not None)
    reads(&a, x, b"x")
    reads(&a, saved.residual, b"residual")
    reads(&a, saved.weight, b"weight")
    reads(&a, saved.bias, b"bias")
    reads(&a, slope, b"slope")
    reads(&a, constant, b"constant")
    check_arrays(&a)

    if saved.in_place:
        x = rebuilt(saved, &l, dx if data(dx) != data(dy) else None)
    k = call_on(l, x, saved.residual)
    k.t.dy, k.t.dx, k.t.dresidual = <char *>data(dy), <char *>data(dx), <char *>data(dresidual)
    k.act, k.weight, k.bias = saved.act, data(saved.weight), data(saved.bias)
    k.invstd = saved.invstd
    k.mean = saved.mean + 2 * saved.C if saved.in_place else saved.mean
    k.dweight, k.dbias, k.frozen = data(dweight), data(dbias), not saved.training
    k.slope, k.constant = <const double *>data(slope), <const double *>data(constant)
    k.sums = need_dweight or need_dbias or (need_dx and saved.training)
    if k.act.kind == ACT_SMOOTH:
        room = dresidual if dresidual is not None else dx
        room = output(None, x, "dy") if room is None else room
        split_smooth(&k, <char *>data(room))
    if k.t.dx != k.t.dy and k.t.dx != k.t.x:
        k.stream = streams(<double>cnp.PyArray_NBYTES(x), 5 if has_residual else 3)
    if cnp.PyArray_SIZE(x) == 0:
        for array in (dweight, dbias):
            if array is not None:
                array[...] = 0
    else:
        compute_backward(&k)
    return (dx, dweight, dbias, dresidual) if has_residual else (dx, dweight, dbias)


cdef void split_smooth(call_t *k, char *dz) noexcept nogil:
    """Have dz computed first, into room that backward writes to anyhow where there is such."""
    k.z, k.smooth = k.t, k.act
    k.z.y = dz
    k.act.kind = ACT_NONE
    k.t.dy = dz
    k.t.residual = k.t.dresidual = NULL


cdef void careful_task(const void *job, int64_t c) noexcept nogil:
    """The gradients of one channel, whatever its scale."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef careful_t f
    cdef planes_t planes
    cdef double dweight, dbias, mean_g, mean_g_xhat
    f.mean, f.invstd = k.mean[c], k.invstd[c]
    f.weight = parameter(k.weight, c, l.element, 1.0)
    f.bias = parameter(k.bias, c, l.element, 0.0)
    planes.planes, planes.length, planes.stride = l.count // l.inner, l.inner, l.C * l.inner
    if k.z.y != NULL:
        batchnorm_simd(l.element).careful_smooth(&k.z, &planes, c * l.inner, &f, &k.smooth)
    batchnorm_simd(l.element).careful_sums(&k.t, &planes, c * l.inner, &f, &k.act, &dweight, &dbias)
    mean_g = 0.0 if k.frozen else f.weight * dbias / l.count
    mean_g_xhat = 0.0 if k.frozen else f.weight * dweight / l.count
    batchnorm_simd(l.element).careful_gradient(&k.t, &planes, c * l.inner, &f, &k.act, mean_g,
                                               mean_g_xhat)
    if k.dweight != NULL:
        put(k.dweight, c, l.element, dweight)
    if k.dbias != NULL:
        put(k.dbias, c, l.element, dbias)


cdef int compute_backward(call_t *k) except -1:
    cdef int status = 0
    with nogil:
        if k.slope == NULL and is_extreme(k.invstd, k.l.C, k.l.element):
            run_tasks(careful_task, k, k.l.C, k.l.threads)
        elif k.l.nhwc:
            status = backward_nhwc(k)
        else:
            backward_nchw(k)
    if status:
        raise MemoryError
    return 0
