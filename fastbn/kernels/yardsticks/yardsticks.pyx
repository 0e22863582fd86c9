"""What memory and arithmetic can do at best: the yardsticks that kernels are measured by.

The arrays of a copy or a triad are cut into equal contiguous parts, one for each thread of the team
that a kernel would get for as many bytes; `passes` goes over them as a kernel has to. All can
store through the caches or past them; a yardstick is the faster of the two. `multiply_adds` keeps
every unit of arithmetic busy.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memcpy

cimport numpy as cnp

from fastbn.kernels.arguments cimport data
from fastbn.kernels.runtime cimport F32, F64, LINE_BYTES, isa_level, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    BLOCK = 65536  # bytes that are written before the next array's turn
    MOST = 3       # arrays that are read, and moves


cdef inline const yardsticks_simd_t *yardsticks_simd(int element) noexcept nogil:
    return yardsticks_table(isa_level(), element)


cdef int check(cnp.ndarray x, cnp.ndarray y, str what) except -1:
    if x is None or y is None:
        raise TypeError(f"{what} and y must be arrays, got None")
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
    return n if k == parts else n // LINE_BYTES * k // parts * LINE_BYTES


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
            yardsticks_simd(F32).stream_copy(source + first, target + first, size)
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
        yardsticks_simd(F32).triad(first_source + first, second_source + first, target + first,
                                   size, stream)
        store_fence()


cdef struct move_t:  # y is written: a copy of a, or the triad of a and b
    const char *a
    const char *b
    char *y


cdef struct passes_t:
    const char *reads[MOST]
    move_t moves[MOST]
    int read_count, move_count
    int64_t rows, pitch
    bint stream


cdef void move_bytes(const move_t *m, int64_t at, int64_t n, bint stream) noexcept nogil:
    if m.b != NULL:
        yardsticks_simd(F32).triad(m.a + at, m.b + at, m.y + at, n, stream)
    elif stream:
        yardsticks_simd(F32).stream_copy(m.a + at, m.y + at, n)
    else:
        memcpy(m.y + at, m.a + at, n)


cdef int64_t pass_slab(const passes_t *p, int64_t first, int64_t n) noexcept nogil:
    """Read n bytes of every row, then write them, the last ones first: caches hold those."""
    cdef int64_t row, last, size, found = 0
    cdef int i
    for row in range(p.rows):
        for i in range(p.read_count):
            found ^= yardsticks_simd(F32).read_bytes(p.reads[i] + row * p.pitch + first, n)
    for row in range(p.rows - 1, -1, -1):
        last = n
        while last > 0:
            size = min(last, <int64_t>BLOCK)
            for i in range(p.move_count):
                move_bytes(&p.moves[i], row * p.pitch + first + last - size, size, p.stream)
            last = last - size
    store_fence()
    return found


def passes(tuple reads not None, tuple moves not None, int64_t rows, int64_t slab,
           bint stream=False):
    """Read arrays, then write others, slab by slab: what normalising does, without its arithmetic.

    Parameters
    ----------
    reads : tuple of arrays
        What is read first, for statistics or sums.
    moves : tuple of (a, b, y)
        What is read and written behind that: a copy of a, or the triad of a and b, if b is no None.
    rows, slab : int
        The arrays' bytes are cut into so many rows; a slab is so many bytes of each of them, and 0
        means a thread's whole share. Each slab is read and written before the next one.
    stream : bool
        Whether stores bypass the caches.

    Raises
    ------
    ValueError
        If arrays are not contiguous or not of one size, a y is read-only, there are too many, or
        they cannot be cut into so many rows.
    """
    cdef passes_t p
    cdef cnp.ndarray first
    cdef int64_t slabs, begin, end, k
    cdef int threads
    if not 0 < len(reads) <= MOST or not 0 < len(moves) <= MOST:
        raise ValueError(f"reads and moves: expected 1 to {MOST} of each")
    first = reads[0]
    for i, x in enumerate(reads):
        check(x, moves[0][2], "reads")
        p.reads[i] = <char *>data(x)
    for i, (a, b, y) in enumerate(moves):
        for source in (first, a) if b is None else (first, a, b):
            check(source, y, "moves")
        p.moves[i].a, p.moves[i].b, p.moves[i].y = <char *>data(a), <char *>data(b), <char *>data(y)
    p.read_count, p.move_count, p.stream, p.rows = len(reads), len(moves), stream, rows
    if rows < 1 or slab < 0 or cnp.PyArray_NBYTES(first) % rows:
        raise ValueError(f"rows: {cnp.PyArray_NBYTES(first)} bytes are no {rows} rows")
    p.pitch = cnp.PyArray_NBYTES(first) // rows
    slab = min(slab, p.pitch)
    arrays = {id(x) for x in reads} | {id(x) for move in moves for x in move if x is not None}
    threads = team(<double>len(arrays) * cnp.PyArray_NBYTES(first))
    slabs = (p.pitch + slab - 1) // slab if slab else threads
    for k in prange(slabs, nogil=True, schedule="static", num_threads=threads):
        begin = k * slab if slab else part(p.pitch, threads, <int>k)
        end = min(begin + slab, p.pitch) if slab else part(p.pitch, threads, <int>k + 1)
        pass_slab(&p, begin, end - begin)


def multiply_adds(int64_t rounds, bint float64=False):
    """Run `rounds` of independent multiply-adds on every thread; how many there were in all."""
    cdef int element = F64 if float64 else F32
    cdef int threads = team(1e9), _
    cdef double total = 0.0
    for _ in prange(threads, nogil=True, schedule="static", num_threads=threads):
        total += yardsticks_simd(element).multiply_adds(rounds)
    if total != total:
        raise FloatingPointError("a sum of finite numbers is not a number")
    return threads * rounds * yardsticks_simd(element).a_round
