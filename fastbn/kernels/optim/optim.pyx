"""Steps of optimizers: all parameters of a network in one sweep.

The values of all parameters, one parameter after another, are cut into chunks of fixed size, and
the chunks are shared by the threads; so many small parameters cost no more than a large one. An
element's update depends on nothing but the element: results are the same for every number of
threads. Loops over numbers are in loops.h.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t, uintptr_t

cimport numpy as cnp

from fastbn.kernels.arguments cimport data as address
from fastbn.kernels.arguments cimport float_of
from fastbn.kernels.runtime cimport isa_level, run_tasks, task_t, team

from bisect import bisect_left

cnp.import_array()

cdef enum:
    CHUNK = 4096   # values
    ALIGN = 64     # values: where a parameter is cut
    MOST_STATES = 2


cdef inline const optim_simd_t *optim_simd(int element) noexcept nogil:
    return optim_table(isa_level(), element)


cdef struct entry_t:     # a parameter
    char *p
    const char *g        # NULL: passed over
    char *state[MOST_STATES]
    int64_t size
    int element
    int itemsize
    double step          # Adam: see adam_t
    double correction


cdef struct piece_t:     # of a parameter, inside one chunk
    int64_t entry
    int64_t first
    int64_t size


cdef struct sweep_t:     # over all chunks
    const entry_t *entries
    const piece_t *pieces
    const int64_t *chunks
    const void *rule     # sgd_t or adam_t


cdef inline bint same_strides(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Do arrays of one shape and dtype have their elements in the same places?"""
    cdef int i
    if cnp.PyArray_SIZE(a) == 0:
        return True
    for i in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, i) > 1 and cnp.PyArray_STRIDE(a, i) != cnp.PyArray_STRIDE(b, i):
            return False
    return True


cdef bint fills_its_memory(cnp.ndarray a) noexcept:
    """Are the elements of a one block that begins at its address, whatever the axes' order?"""
    cdef int64_t reach = cnp.PyArray_ITEMSIZE(a)
    cdef int ndim = cnp.PyArray_NDIM(a), i, found, done = 0
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) == 0:
            return True
        done += cnp.PyArray_DIM(a, i) == 1
    while done < ndim:  # the axis that steps over what the ones found so far cover
        found = -1
        for i in range(ndim):
            if cnp.PyArray_DIM(a, i) > 1 and cnp.PyArray_STRIDE(a, i) == reach:
                found = i
        if found < 0:
            return False
        reach *= cnp.PyArray_DIM(a, found)
        done += 1
    return True


cdef cnp.ndarray checked_values(object a, str what):
    if not isinstance(a, cnp.ndarray):
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(a).__name__}")
    cdef cnp.ndarray array = <cnp.ndarray>a
    float_of(array, what)
    if not cnp.PyArray_ISBEHAVED(array):
        raise ValueError(f"{what} must be aligned, writeable and of native byte order")
    if not fills_its_memory(array):
        raise ValueError(f"{what} must be dense: a contiguous array or a transposed view of one")
    return array


cdef int check_like(object a, cnp.ndarray values, bint writeable, str what,
                    Py_ssize_t i) except -1:
    """Refuse what does not lie beside `values` element by element."""
    if not isinstance(a, cnp.ndarray):
        raise TypeError(f"{what}[{i}]: expected a numpy.ndarray, got {type(a).__name__}")
    cdef cnp.ndarray array = <cnp.ndarray>a
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(values):
        raise TypeError(f"{what}[{i}]: expected {values.dtype}, got {array.dtype}")
    if not cnp.PyArray_SAMESHAPE(array, values):
        raise ValueError(f"{what}[{i}]: expected shape {(<object>values).shape}, "
                         f"got {(<object>array).shape}")
    if not same_strides(array, values):
        raise ValueError(f"{what}[{i}]: expected strides {(<object>values).strides}, as its "
                         f"parameter has, got {(<object>array).strides}")
    if not (cnp.PyArray_ISBEHAVED(array) if writeable else cnp.PyArray_ISBEHAVED_RO(array)):
        raise ValueError(f"{what}[{i}] must be aligned and of native byte order"
                         + (", and writeable" if writeable else ""))
    return 0


cdef class Sweep:
    """The values and states of many parameters, which one call updates together.

    Built once for the parameters of an optimizer, and again when an array of values or of state
    is replaced by another (`holds` tells).

    Parameters
    ----------
    data : sequence of array
        The values: float32 or float64, writeable and dense, the axes in any order of memory (as
        a transposed view of contiguous storage is).
    *states : sequence of array
        As many arrays as `data` each, of the same shapes, dtypes and strides: the momentum
        buffers for `sgd_step` with momentum, first and second moments for `adam_step`.
        All zeros before the first step.

    Raises
    ------
    TypeError, ValueError
        If an array does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.kernels.optim import Sweep
    >>> weight, bias = np.ones((2, 3)).T, np.ones(2)
    >>> sweep = Sweep([weight, bias], [np.zeros_like(weight), np.zeros_like(bias)])
    >>> sweep.sgd_step([np.full_like(weight, 2.0), None], lr=0.25, momentum=0.9)
    >>> weight.tolist(), bias.tolist()  # no gradient: passed over
    ([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], [1.0, 1.0])
    """

    cdef readonly tuple data
    cdef readonly tuple states
    cdef list starts         # the addresses of all these arrays, in order,
    cdef list ends           # and their ends and names
    cdef list grads          # of the last step: the arrays behind the entries' g
    cdef entry_t *entries
    cdef piece_t *pieces
    cdef int64_t *chunks     # the first piece of each, and the end of the last
    cdef int64_t chunk_count
    cdef double nbytes       # of all values

    def __cinit__(self, object data, *states):
        cdef Py_ssize_t i, k, count
        cdef cnp.ndarray values
        cdef entry_t *e
        self.data = tuple(data)
        self.states = tuple([tuple(arrays) for arrays in states])
        count = len(self.data)
        if len(self.states) > MOST_STATES:
            raise ValueError(f"states: expected at most {MOST_STATES} sequences, "
                             f"got {len(self.states)}")
        for k in range(len(self.states)):
            if len(self.states[k]) != count:
                raise ValueError(f"states[{k}]: expected {count} arrays, "
                                 f"got {len(self.states[k])}")
        self.grads = [None] * count
        self.entries = <entry_t *>PyMem_Calloc(max(1, count), sizeof(entry_t))
        if self.entries == NULL:
            raise MemoryError
        self.nbytes = 0.0
        for i in range(count):
            values = checked_values(self.data[i], f"data[{i}]")
            e = &self.entries[i]
            e.p = cnp.PyArray_BYTES(values)
            e.size = cnp.PyArray_SIZE(values)
            e.itemsize = cnp.PyArray_ITEMSIZE(values)
            e.element = float_of(values, "data")
            self.nbytes += <double>cnp.PyArray_NBYTES(values)
            for k in range(len(self.states)):
                check_like(self.states[k][i], values, True, f"states[{k}]", i)
                e.state[k] = <char *>address(self.states[k][i])
        self.find_places()
        self.cut()

    def __dealloc__(self):
        PyMem_Free(self.entries)
        PyMem_Free(self.pieces)
        PyMem_Free(self.chunks)

    cdef int cut(self) except -1:
        """Cut the entries, one behind another, into chunks of about CHUNK values."""
        cdef int64_t total = 0, count = 0, chunk = 0, filled = 0, first, size
        cdef Py_ssize_t i, n = len(self.data)
        for i in range(n):
            total += self.entries[i].size
        # a chunk is closed when it is full, so that only the last one holds less than CHUNK
        self.pieces = <piece_t *>PyMem_Malloc((n + total // CHUNK + 1) * sizeof(piece_t))
        self.chunks = <int64_t *>PyMem_Malloc((total // CHUNK + 2) * sizeof(int64_t))
        if self.pieces == NULL or self.chunks == NULL:
            raise MemoryError
        self.chunks[0] = 0
        for i in range(n):
            first = 0
            while first < self.entries[i].size:
                size = (CHUNK - filled + ALIGN - 1) // ALIGN * ALIGN
                size = min(size, self.entries[i].size - first)
                self.pieces[count].entry = i
                self.pieces[count].first = first
                self.pieces[count].size = size
                first += size
                filled += size
                count += 1
                if filled >= CHUNK:
                    filled = 0
                    chunk += 1
                    self.chunks[chunk] = count
        if filled:
            chunk += 1
            self.chunks[chunk] = count
        self.chunk_count = chunk
        return 0

    cdef int find_places(self) except -1:
        """Where the arrays that steps write lie, in order; ValueError where two share memory."""
        cdef cnp.ndarray array
        found = []
        for what, arrays in (("data", self.data),
                             *[(f"states[{k}]", s) for k, s in enumerate(self.states)]):
            for i, values in enumerate(arrays):
                array = <cnp.ndarray>values
                if cnp.PyArray_SIZE(array):
                    found.append((<uintptr_t>cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array),
                                  f"{what}[{i}]"))
        found.sort()
        for before, behind in zip(found, found[1:]):
            if before[0] + before[1] > behind[0]:
                raise ValueError(f"{before[2]} must not overlap {behind[2]}")
        self.starts = [start for start, _, _ in found]
        self.ends = [(start + size, name) for start, size, name in found]
        return 0

    cdef int check_apart(self, cnp.ndarray grad, str what) except -1:
        """Refuse a gradient that shares memory with what a step writes."""
        cdef object start = <uintptr_t>cnp.PyArray_DATA(grad)
        k = bisect_left(self.starts, start + cnp.PyArray_NBYTES(grad)) - 1
        if k >= 0 and self.ends[k][0] > start and cnp.PyArray_SIZE(grad):
            raise ValueError(f"{what} must not overlap {self.ends[k][1]}")
        return 0

    def holds(self, object data):
        """Tell whether these very arrays are the ones that steps update."""
        cdef Py_ssize_t i
        if len(data) != len(self.data):
            return False
        for i in range(len(self.data)):
            if data[i] is not self.data[i]:
                return False
        return True

    cdef int take(self, object grads) except -1:
        """Let the entries' g be these gradients, looking only at those that are new."""
        cdef Py_ssize_t i, n = len(self.data)
        if len(grads) != n:
            raise ValueError(f"grads: expected {n} arrays, got {len(grads)}")
        for i in range(n):
            grad = grads[i]
            if grad is not self.grads[i] and grad is not None:
                check_like(grad, <cnp.ndarray>self.data[i], False, "grads", i)
                self.check_apart(<cnp.ndarray>grad, f"grads[{i}]")
        for i in range(n):
            grad = grads[i]
            if grad is not self.grads[i]:
                self.grads[i] = grad
                self.entries[i].g = <const char *>address(grad)
        return 0

    def sgd_step(self, object grads, double lr, double momentum=0.0, double weight_decay=0.0,
                 bint nesterov=False):
        """Update in place: PyTorch's SGD without dampening.

        ``g += weight_decay * p``; ``b = momentum * b + g``; ``g = g + momentum * b`` (Nesterov)
        or ``b``; ``p -= lr * g``.

        Parameters
        ----------
        grads : sequence of array or None
            The gradients, strides as of `data`. None leaves parameter and state as they are.
        lr, momentum, weight_decay : float
            Momentum needs one sequence of states.
        nesterov : bool
            Look ahead (Sutskever et al. 2013, as PyTorch writes it).

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit; nothing was changed then.
        """
        cdef sgd_t s
        cdef int threads = team(self.nbytes * (5 if momentum else 3))
        if momentum != 0 and not self.states:
            raise ValueError("momentum needs one sequence of states, got none")
        if nesterov and momentum == 0:
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        self.take(grads)
        s.lr, s.momentum, s.decay, s.nesterov = lr, momentum, weight_decay, nesterov
        self.run(sgd_chunk, &s, threads)

    def adam_step(self, object grads, object steps, double lr, double beta1=0.9,
                  double beta2=0.999, double eps=1e-8, double weight_decay=0.0,
                  bint decoupled=False):
        """Update in place: Adam (Kingma & Ba 2015, Algorithm 1), or AdamW with `decoupled`.

        ``g += weight_decay * p`` (or, decoupled, ``p *= 1 - lr * weight_decay``, Loshchilov &
        Hutter 2019); ``m += (1 - beta1) * (g - m)``; ``v = beta2 * v + (1 - beta2) * g²``;
        ``p -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)``.

        Parameters
        ----------
        grads : sequence of array or None
            As in `sgd_step`.
        steps : int64 array of shape (len(data),)
            The steps t that each parameter has made; raised by one where there is a gradient.
        lr, beta1, beta2, eps, weight_decay : float
            As in PyTorch.
        decoupled : bool
            AdamW's weight decay.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit; nothing was changed then.
        """
        cdef adam_t s
        cdef int64_t t, last = -1
        cdef int64_t *made
        cdef Py_ssize_t i, n = len(self.data)
        cdef int threads = team(self.nbytes * 7)
        if len(self.states) != 2:
            raise ValueError(f"Adam needs two sequences of states, got {len(self.states)}")
        check_steps(steps, n)
        self.take(grads)
        made = <int64_t *>address(steps)
        s.step = s.correction = 0.0
        for i in range(n):
            if self.entries[i].g == NULL:
                continue
            made[i] += 1
            t = made[i]
            if t != last:
                last = t
                s.step = lr / (1.0 - pow(beta1, t))
                s.correction = 1.0 / sqrt(1.0 - pow(beta2, t))
            self.entries[i].step, self.entries[i].correction = s.step, s.correction
        s.beta1, s.beta2, s.eps = beta1, beta2, eps
        s.decay = 0.0 if decoupled else weight_decay
        s.keep = 1.0 - lr * weight_decay if decoupled else 1.0
        self.run(adam_chunk, &s, threads)

    cdef void run(self, task_t update, const void *rule, int threads) noexcept:
        """All chunks."""
        cdef sweep_t sweep
        sweep.entries, sweep.pieces, sweep.chunks = self.entries, self.pieces, self.chunks
        sweep.rule = rule
        with nogil:
            run_tasks(update, &sweep, self.chunk_count, threads)


cdef int check_steps(object steps, Py_ssize_t n) except -1:
    if not isinstance(steps, cnp.ndarray):
        raise TypeError(f"steps: expected a numpy.ndarray, got {type(steps).__name__}")
    cdef cnp.ndarray array = <cnp.ndarray>steps
    if cnp.PyArray_TYPE(array) != cnp.NPY_INT64:
        raise TypeError(f"steps: expected int64, got {array.dtype}")
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != n:
        raise ValueError(f"steps: expected shape ({n},), got {steps.shape}")
    if not cnp.PyArray_ISCARRAY(array):
        raise ValueError("steps must be contiguous, aligned and writeable")
    return 0


cdef void sgd_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const sweep_t *w = <const sweep_t *>job
    cdef const sgd_t *s = <const sgd_t *>w.rule
    cdef int64_t i, at
    cdef const entry_t *e
    for i in range(w.chunks[k], w.chunks[k + 1]):
        e = &w.entries[w.pieces[i].entry]
        if e.g != NULL:
            at = w.pieces[i].first * e.itemsize
            optim_simd(e.element).sgd(e.p + at, e.g + at,
                                      e.state[0] + at if s.momentum != 0 else NULL,
                                      w.pieces[i].size, s)


cdef void adam_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const sweep_t *w = <const sweep_t *>job
    cdef int64_t i, at
    cdef const entry_t *e
    cdef adam_t own = (<const adam_t *>w.rule)[0]
    for i in range(w.chunks[k], w.chunks[k + 1]):
        e = &w.entries[w.pieces[i].entry]
        if e.g != NULL:
            at = w.pieces[i].first * e.itemsize
            own.step, own.correction = e.step, e.correction
            optim_simd(e.element).adam(e.p + at, e.g + at, e.state[0] + at, e.state[1] + at,
                                       w.pieces[i].size, &own)
