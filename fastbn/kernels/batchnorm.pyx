"""Batch normalisation, forward and backward: who does what.

An array is seen in one of two ways.

channels (NCHW)
    A channel's values are runs of contiguous numbers: batchnorm_channels.pxi.

columns (channels-last, (N, C))
    Channels lie side by side: batchnorm_columns.pxi.

The cuts depend on the shape alone, never on the number of threads: results are the same to the
bit for every number of threads. Loops over numbers are in simd/batchnorm.h.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cython.parallel cimport prange
from libc.math cimport fabs
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from fastbn.kernels.border cimport (
    check_vector, data, dense, dense_vector, element_of, output, overlaps,
)
from fastbn.kernels.runtime cimport BF16, F64, scratch, spans_of, streams, team
from fastbn.kernels.spans cimport (
    ACT_LEAKY, ACT_NONE, ACT_RELU, act_t, affine_t, affines_t, bn_spans_t, runs_t, tensors_t,
)

from fastbn.kernels.activation import leaky_relu

cnp.import_array()

cdef extern from "rounding.h" nogil:
    void store_fence()
    double round_to_float(double value)

cdef enum:
    TILE = 1024            # columns whose sums the spans take at once
    STREAM_TILE = 8192     # columns that they write at once past the caches
    GROUP = 32             # channels that a sweep takes at once, at most
    GROUP_BYTES = 4096     # what their runs are together, at most;
    PIECE_BYTES = 65536    # the same in inference, which takes so much of a sample at a time
    MAP_BYTES = 256        # runs up to this length are taken in tiles of channels;
    KNOWN_MAP_BYTES = 400  # the same where statistics are known
    MAP_TILE_BYTES = 131072
    MAP_ROWS = 64          # rows of maps whose sums are taken in single precision
    MOST_BIAS = 1024       # times the weight, for a y from which x can be found
    BLOCK_BYTES = 65536    # rows that are written together
    CHUNK_BYTES = 262144   # what a chunk of rows is at least
    MOST_CHUNKS = 64
    STAGGER = 640          # between coefficients that would stand a multiple of 4096 bytes apart


cdef double TINY_WEIGHT = 1e-30  # its inverse is finite in float32


cdef struct layout_t:
    bint columns       # the channels lie side by side
    int64_t outer      # channels: N                     columns: rows
    int64_t inner      # channels: values in a run       columns: 1
    int64_t C          # channels
    int64_t whole      # channels: how many fill whole cache lines
    int64_t maps       # channels: of a tile, 0 where runs are long
    int64_t group      # channels: of a sweep
    int64_t repeat     # columns: rows that are taken as one
    bint ask           # columns: their rows are wider than a tile, and come from memory
    int64_t count      # values of one channel
    int element
    int itemsize
    int64_t chunks     # columns: chunks of rows
    int threads


cdef int64_t whole_lines(const layout_t *l, int64_t most, int64_t nbytes) noexcept:
    """How many channels have `nbytes` in a sample: at most `most`, at least one, and a multiple of
    what fills whole cache lines, if that is not more than `most`."""
    cdef int64_t n = nbytes // max(1, l.inner * l.itemsize)
    if l.whole > most:
        return min(most, max(1, n))
    return min(most, max(l.whole, n)) // l.whole * l.whole


cdef layout_t layout_of(cnp.ndarray x, int axis, int element, int arrays,
                        bint known=False) noexcept:
    """The layout of a contiguous x; `arrays` of its size are read and written by the call.

    `known`: no statistics are taken, values are only scaled and shifted.
    """
    cdef layout_t l
    cdef int ndim = cnp.PyArray_NDIM(x), i
    cdef int64_t total = cnp.PyArray_SIZE(x)
    l.element = element
    l.itemsize = cnp.PyArray_ITEMSIZE(x)
    l.C = cnp.PyArray_DIM(x, axis)
    l.inner = 1
    for i in range(axis + 1, ndim):
        l.inner *= cnp.PyArray_DIM(x, i)
    l.count = total // l.C if l.C else 0
    l.columns = l.inner == 1
    l.outer = l.count // l.inner if l.inner else 0
    l.whole = 1
    while l.whole * l.inner * l.itemsize % 64 and 2 * l.whole * l.inner <= TILE:
        l.whole *= 2
    l.maps = 0
    if not l.columns and l.inner * l.itemsize <= (KNOWN_MAP_BYTES if known else MAP_BYTES):
        l.maps = whole_lines(&l, TILE // max(1, l.inner), MAP_TILE_BYTES // max(1, l.outer))
    l.group = 1
    if l.inner * l.itemsize <= GROUP_BYTES:  # longer runs are cut into blocks, one by one
        l.group = whole_lines(&l, GROUP, PIECE_BYTES if known else GROUP_BYTES)
    l.repeat = 1
    if l.columns and 0 < l.C < 64:
        l.repeat = 64 // l.C
        while l.outer % l.repeat:
            l.repeat -= 1
        l.outer //= l.repeat
    l.ask = l.columns and l.C > TILE and streams(<double>total * l.itemsize, arrays)
    l.chunks = min(max(1, total * l.itemsize // CHUNK_BYTES), MOST_CHUNKS, max(1, l.outer))
    l.threads = team(<double>total * l.itemsize * arrays)
    return l


cdef double parameter(const void *p, int64_t i, int element, double default) noexcept nogil:
    if p == NULL:
        return default
    return (<const double *>p)[i] if element == F64 else (<const float *>p)[i]


cdef void put(void *p, int64_t i, int element, double value) noexcept nogil:
    if element == F64:
        (<double *>p)[i] = value
    else:
        (<float *>p)[i] = <float>value


cdef double rounded(double value, int element) noexcept nogil:
    return value if element == F64 else round_to_float(value)


cdef affine_t affine_of(double mean, double invstd, double weight, double bias,
                        int element) noexcept nogil:
    """y = (x - mean) * invstd * weight + bias, about the rounded mean (see simd/batchnorm.h)."""
    cdef affine_t f
    f.centre = rounded(mean, element)
    f.a = rounded(weight * invstd, element)
    f.b = bias + (f.centre - mean) * f.a
    f.k0 = f.k1 = 0.0
    return f


cdef void gradient_terms(affine_t *f, double mean, double invstd, double count, double sum_d,
                         double sum_dx) noexcept nogil:
    """The terms of dx = a * (d - mean(d) - xhat * mean(d * xhat)); sum_dx is about the mean."""
    f.k1 = -f.a * invstd * invstd * (sum_dx / count)
    f.k0 = f.k1 * (f.centre - mean) - f.a * (sum_d / count)


include "batchnorm_channels.pxi"
include "batchnorm_columns.pxi"
include "batchnorm_parts.pxi"


# ---- the border: arguments in, arrays out ----

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


cdef act_t activation_of(object activation, object negative_slope) except *:
    cdef act_t act
    act.slope = 0.0
    if activation is None:
        act.kind = ACT_NONE
    elif activation == "relu":
        act.kind = ACT_RELU
    elif activation == "leaky_relu":
        act.kind = ACT_LEAKY
        act.slope = negative_slope
        if act.slope == 0.0:
            act.kind = ACT_RELU
    else:
        raise ValueError(
            f"activation should be None, 'relu' or 'leaky_relu', got {activation!r}")
    return act


cdef int axis_of(cnp.ndarray x, object axis) except -1:
    cdef int ndim = cnp.PyArray_NDIM(x)
    if ndim < 2:
        raise ValueError(f"expected an input of 2 or more dimensions, got {ndim}D input")
    if axis == -1 or axis == ndim - 1:
        return ndim - 1
    if axis == 1:
        return 1
    raise ValueError(f"axis should be 1 (NCHW) or -1 (channels-last), got {axis!r}")


cdef tuple size_of(cnp.ndarray x):
    return (<object>x).shape


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


cdef cnp.ndarray residual_of(object residual_, cnp.ndarray x):
    """The residual, checked; None where there is none."""
    if residual_ is None:
        return None
    cdef cnp.ndarray residual = dense(residual_, "residual")
    if not cnp.PyArray_SAMESHAPE(residual, x):
        raise ValueError(f"residual: expected shape {size_of(x)}, got {size_of(residual)}")
    if cnp.PyArray_TYPE(residual) != cnp.PyArray_TYPE(x):
        raise TypeError(f"residual: expected {x.dtype}, got {residual.dtype}")
    return residual


def forward(object x_, object weight, object bias, object running_mean, object running_var,
            bint training, object momentum, double eps, object axis_, object activation,
            object negative_slope, object residual_, object tracked, object moments, object out):
    """Check the arguments of ``functional.batch_norm``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), residual, y
    cdef int axis = axis_of(x, axis_), element = element_of(x, "x")
    cdef act_t act = activation_of(activation, negative_slope)
    cdef int number = cnp.NPY_FLOAT32 if element == BF16 else cnp.PyArray_TYPE(x)
    cdef int64_t C = cnp.PyArray_DIM(x, axis)
    cdef double factor = 0.0, unbias = 1.0
    cdef bint batch = training and moments is None  # statistics are to be taken from x
    cdef layout_t l = layout_of(x, axis, element, 2 if residual_ is None else 3, not batch)
    cdef bint tracks = running_mean is not None and running_var is not None
    cdef int64_t *count = count_of(tracked) if training else NULL
    cdef const bn_spans_t *spans = &spans_of(element).bn
    cdef BatchNormSaved saved
    cdef double *var
    cdef int status
    weight = dense_vector(weight, "weight", C, number)
    bias = dense_vector(bias, "bias", C, number)
    check_vector(running_mean, "running_mean", C, number)
    check_vector(running_var, "running_var", C, number)
    residual = residual_of(residual_, x)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var: give both or neither")
    if tracks and overlaps(running_mean, running_var):
        raise ValueError("running_mean and running_var must be two arrays")
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
    y = output(out, x, "out")

    saved = saved_of(x, weight, bias, residual, axis, act, training)
    if out is not None:
        check_in_place(saved, y, training)
    var = saved.mean + 2 * C
    if not training:
        spans.col_running(C, eps, data(running_mean), data(running_var), saved.mean, saved.invstd)
    elif moments is not None:
        memcpy(saved.mean, data(moments[1]), C * sizeof(double))
        memcpy(var, data(moments[2]), C * sizeof(double))
        spans.col_invstd(C, <double>l.count, eps, var, saved.invstd)
    if cnp.PyArray_SIZE(x):
        status = compute_forward(&l, x, residual, y, data(weight), data(bias), saved.mean,
                                 saved.invstd, var, eps, batch, &act)
        if status:
            raise MemoryError
    if training and tracks:
        unbias = l.count / (l.count - 1.0)
        spans.col_move(C, factor, 1.0, saved.mean, data(running_mean))
        spans.col_move(C, factor, unbias, var, data(running_var))
    if count != NULL:
        count[0] += 1
    return y, saved


cdef int compute_forward(const layout_t *l, cnp.ndarray x, object residual, cnp.ndarray y,
                         const void *weight, const void *bias, double *mean, double *invstd,
                         double *var, double eps, bint batch, const act_t *act) noexcept:
    cdef tensors_t t
    cdef bint stream = streams(<double>cnp.PyArray_NBYTES(y), 2 if residual is None else 3)
    if data(y) == data(x) or data(y) == data(residual):
        stream = False  # it is in cache, and streaming sweeps may compute a value twice
    t.x, t.residual, t.y = <char *>data(x), <char *>data(residual), <char *>data(y)
    t.dy = t.dresidual = NULL
    with nogil:
        if l.columns:
            return forward_columns(l, &t, weight, bias, mean, invstd, var, eps, batch, act, stream)
        return forward_channels(l, &t, weight, bias, mean, invstd, var, eps, batch, act, stream)


cdef int check_moments(object moments, bint training, const layout_t *l) except -1:
    """Refuse moments that cannot be those of x."""
    if not training:
        raise ValueError("moments are the batch's: they go with training=True")
    if not isinstance(moments, tuple) or len(moments) != 3:
        raise TypeError(f"moments: expected (count, mean, m2), got {type(moments).__name__}")
    if moments[0] != l.count:
        raise ValueError(
            f"moments: expected those of {l.count} values per channel, got {moments[0]}")
    for name, vector in (("mean", moments[1]), ("m2", moments[2])):
        if vector is None:
            raise TypeError(f"moments: {name}: expected a numpy.ndarray, got NoneType")
        check_vector(vector, f"moments: {name}", l.C, cnp.NPY_FLOAT64)
    return 0


cdef int64_t *count_of(object tracked) except? NULL:
    """Where num_batches_tracked stands; NULL for None."""
    if tracked is None:
        return NULL
    if not isinstance(tracked, cnp.ndarray):
        raise TypeError("num_batches_tracked: expected a numpy.ndarray, "
                        f"got {type(tracked).__name__}")
    cdef cnp.ndarray count = <cnp.ndarray>tracked
    if not (cnp.PyArray_EquivTypenums(cnp.PyArray_TYPE(count), cnp.NPY_INT64)
            and cnp.PyArray_ISNOTSWAPPED(count)):
        raise TypeError(f"num_batches_tracked: expected int64, got {count.dtype}")
    if cnp.PyArray_NDIM(count):
        raise ValueError(
            f"num_batches_tracked should have shape (), got shape {size_of(count)}")
    if not cnp.PyArray_ISWRITEABLE(count):
        raise ValueError("num_batches_tracked is read-only and cannot be updated")
    if not cnp.PyArray_ISALIGNED(count):
        raise ValueError("num_batches_tracked must be aligned")
    return <int64_t *>data(count)


cdef double next_factor(object momentum, const int64_t *count) except? -1.0:
    """The share of this batch in the running statistics."""
    if momentum is not None:
        return momentum
    if count == NULL:
        raise ValueError("momentum=None (a cumulative average) needs num_batches_tracked")
    return 1.0 / (count[0] + 1.0)


cdef int check_in_place(BatchNormSaved saved, cnp.ndarray out, bint training) except -1:
    """Settle what `out` overwrites; ValueError where that would lose what is still needed."""
    for name, other in (("x", saved.x), ("residual", saved.residual)):
        if other is None or not overlaps(out, other):
            continue
        if data(out) != data(other):
            raise ValueError(f"out overlaps {name} in part: use the same array or another one")
        if not training:
            saved.overwritten = name
        elif name == "residual":
            raise ValueError("out may be residual in inference only: backward needs residual")
        else:
            check_invertible(saved)
            saved.in_place = True
    return 0


cdef int check_invertible(BatchNormSaved saved) except -1:
    """ValueError unless backward can find x from y."""
    cdef int element = element_of(saved.x, "x")
    cdef void *weight = data(saved.weight)
    cdef void *bias = data(saved.bias)
    cdef double w
    cdef int64_t c
    if saved.act.kind == ACT_RELU or (saved.act.kind == ACT_LEAKY and not saved.act.slope > 0):
        raise ValueError("out may be x in training without an activation or with a leaky ReLU of "
                         "positive slope only: backward needs x, and ReLU cannot be undone")
    if saved.residual is not None:
        raise ValueError("out may be x in training without a residual only: backward needs x")
    if element == BF16:
        raise ValueError("out may not be x in training in bfloat16: backward needs x, and y holds "
                         "too few of its digits")
    for c in range(saved.C):
        w = fabs(parameter(weight, c, element, 1.0))
        if not (w > TINY_WEIGHT and w * MOST_BIAS >= fabs(parameter(bias, c, element, 0.0))):
            raise ValueError(f"out may not be x in training: weight[{c}] is too small against "
                             f"bias[{c}] to find x from y")
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
    cdef act_t none
    cdef int64_t c
    cdef int status
    none.kind, none.slope = ACT_NONE, 0.0
    if scale == NULL:
        raise MemoryError
    if saved.act.kind == ACT_LEAKY:
        leaky_relu(y, 1.0 / saved.act.slope, xc)
        y = xc
    for c in range(saved.C):
        spare[c] = parameter(bias, c, l.element, 0.0)
        scale[c] = 1.0 / (parameter(weight, c, l.element, 1.0) * saved.invstd[c])
    status = compute_forward(l, y, None, xc, NULL, NULL, spare, scale, NULL, 0.0, False, &none)
    PyMem_Free(scale)
    if status:
        raise MemoryError
    memset(spare, 0, saved.C * sizeof(double))
    return xc


def backward(object dy_, BatchNormSaved saved, bint need_dx, bint need_dweight, bint need_dbias,
             bint need_dresidual, object out, object dweight, object dbias, object dresidual):
    """Check the arguments of ``functional.batch_norm_backward``, then compute it."""
    cdef cnp.ndarray x = saved.x, dy = dense(dy_, "dy")
    cdef int element = element_of(x, "x")
    cdef layout_t l = layout_of(x, saved.axis, element, 3)
    cdef bint has_residual = saved.residual is not None
    cdef tensors_t t
    cdef bint frozen = not saved.training, stream, sums
    cdef void *weight = data(saved.weight)
    cdef void *bias = data(saved.bias)
    cdef double *mean = saved.mean
    cdef int status = 0
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
    dx = output(out, x, "out") if need_dx else None
    dweight = gradient(dweight, saved.weight, "dweight") if need_dweight else None
    dbias = gradient(dbias, saved.bias, "dbias") if need_dbias else None
    dresidual = output(dresidual, x, "dresidual") if has_residual and need_dresidual else None
    check_aliases(saved, dy, dx, dresidual)

    if saved.in_place:
        x = rebuilt(saved, &l, dx if data(dx) != data(dy) else None)
        mean = saved.mean + 2 * saved.C
    t.x, t.dy, t.residual = <char *>data(x), <char *>data(dy), <char *>data(saved.residual)
    t.y, t.dresidual = <char *>data(dx), <char *>data(dresidual)
    sums = need_dweight or need_dbias or (need_dx and not frozen)
    stream = (streams(<double>cnp.PyArray_NBYTES(x), 5 if has_residual else 3)
              and data(dx) != data(dy) and data(dx) != data(x))
    if cnp.PyArray_SIZE(x) == 0:
        for array in (dweight, dbias):
            if array is not None:
                array[...] = 0
    else:
        status = compute_backward(&l, &t, weight, bias, mean, saved, data(dweight), data(dbias),
                                  sums, frozen, stream)
    if status:
        raise MemoryError
    return (dx, dweight, dbias, dresidual) if has_residual else (dx, dweight, dbias)


cdef int compute_backward(const layout_t *l, const tensors_t *t, const void *weight,
                          const void *bias, const double *mean, BatchNormSaved saved,
                          void *dweight, void *dbias, bint sums, bint frozen,
                          bint stream) noexcept:
    cdef double *invstd = saved.invstd
    cdef act_t act = saved.act
    with nogil:
        if l.columns:
            return backward_columns(l, t, weight, bias, mean, invstd, dweight, dbias, sums, frozen,
                                    &act, stream)
        backward_channels(l, t, weight, bias, mean, invstd, dweight, dbias, sums, frozen, &act,
                          stream)
    return 0


cdef object gradient(object destination, object parameter, str what):
    return output(destination, parameter, what)


cdef int check_aliases(BatchNormSaved saved, cnp.ndarray dy, object dx, object dresidual) except -1:
    if dx is not None:
        if overlaps(dx, saved.x) or (saved.residual is not None and overlaps(dx, saved.residual)):
            raise ValueError("out may be dy, but neither x nor residual")
        if overlaps(dx, dy) and data(dx) != data(dy):
            raise ValueError("out overlaps dy in part: use the same array or another one")
    if dresidual is not None:
        for name, other in (("x", saved.x), ("residual", saved.residual), ("dy", dy), ("out", dx)):
            if other is not None and overlaps(dresidual, other):
                raise ValueError(f"dresidual must not overlap {name}")
    return 0
