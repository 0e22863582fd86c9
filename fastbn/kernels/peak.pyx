"""What arithmetic can do at best: the yardstick that matrix products are measured by."""

from cython.parallel cimport prange
from libc.stdint cimport int64_t

from fastbn.kernels.runtime cimport F32, F64, spans_of, team


def multiply_adds(int64_t rounds, bint float64=False):
    """Run `rounds` of independent multiply-adds on every thread; how many there were in all."""
    cdef int element = F64 if float64 else F32
    cdef int threads = team(1e9), k
    cdef double total = 0.0
    for k in prange(threads, nogil=True, schedule="static", num_threads=threads):
        total += spans_of(element).peak.multiply_adds(rounds)
    if total != total:
        raise FloatingPointError("a sum of finite numbers is not a number")
    return threads * rounds * spans_of(element).peak.a_round
