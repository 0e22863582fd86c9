"""What every kernel shares: the instruction-set level, the pool of threads, the cache sizes.

There is one pool of threads, OpenMP's. How many of them work on a call is decided here and only
by the size of the work; how the work is cut never depends on it, so that results are the same to
the bit for every number of threads.
"""

import os
import sys
import warnings


cdef extern from "common/cpu.h" nogil:
    int fastbn_cpu_level()
    int fastbn_cpu_is_intel()


cdef extern from "common/scratch.h" nogil:
    int open_scratch()
    void *scratch_bytes(int slot, int64_t n)


cdef extern from "common/tasks.h" nogil:
    void tasks_of_job(task_t work, const void *job, int64_t tasks, int threads)


cdef extern from "common/omp_shim.h" nogil:
    int FASTBN_OPENMP
    int omp_get_max_threads()
    int omp_get_thread_num()
    int omp_in_parallel()


cdef int level = 0
cdef int threads = 1
cdef bint forked = False
cdef double serial_below = 256 * 1024  # bytes: for less, a team costs more than it saves
cdef double far_above = 0            # bytes: more than caches hold for certain
cdef double copy_above = 0           # the same of a copy that several threads share
cdef double own_above = 0            # the same of each thread, where L3 is slow; else 0
cdef double forced_above = -1        # see stream_from
cdef int how_to_stream = STREAM_TURNS

# More than these, and four a core, are taken for a mistake.
MOST_THREADS = 64

LEVELS = ("baseline", "avx2", "avx512")
has_openmp = bool(FASTBN_OPENMP)


cdef int isa_level() noexcept nogil:
    return level


cdef int team(double nbytes) noexcept nogil:
    return 1 if nbytes < serial_below or omp_in_parallel() else threads


cdef void run_tasks(task_t work, const void *job, int64_t tasks, int most) noexcept nogil:
    tasks_of_job(work, job, tasks, most)


cdef bint is_far(double nbytes, int arrays) noexcept nogil:
    return nbytes * arrays >= (forced_above if forced_above >= 0 else far_above)


cdef int streams(double nbytes, int arrays, bint twice=False) noexcept nogil:
    cdef double above = copy_above if threads > 1 and arrays <= 2 and not twice else far_above
    if own_above > 0:
        above = own_above * threads
    if forced_above >= 0:
        above = forced_above
    return how_to_stream if nbytes * arrays >= above else 0


cdef int this_thread() noexcept nogil:
    return omp_get_thread_num()


cdef void *scratch(int slot, int64_t nbytes) noexcept nogil:
    return scratch_bytes(slot, nbytes)


def available_isas():
    """Names of the instruction-set levels that this machine can run, lowest first."""
    return LEVELS[: fastbn_cpu_level() + 1] if FASTBN_X86 else LEVELS[:1]


def isa():
    """Name of the level in use: ``FASTBN_ISA``, else the highest that this machine can run."""
    return LEVELS[level]


def get_num_threads():
    """Number of threads that large work is shared by.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.get_num_threads() >= 1
    True
    """
    return threads


def set_num_threads(n):
    """Set the number of threads that large work is shared by; results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        If n is not a positive integer.
    RuntimeError
        If more than one thread is asked for in a forked child, where OpenMP's pool is gone.

    Examples
    --------
    >>> import fastbn
    >>> before = fastbn.get_num_threads()
    >>> fastbn.set_num_threads(1)
    >>> fastbn.get_num_threads()
    1
    >>> fastbn.set_num_threads(before)
    """
    global threads
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"set_num_threads expects an int, got {type(n).__name__}")
    if not 0 < n <= 1024:
        raise ValueError(f"set_num_threads expects a number from 1 to 1024, got {n}")
    if forked and n > 1:
        raise RuntimeError("a forked process runs on one thread: OpenMP's pool does not survive "
                           "a fork (start it with 'spawn' for more)")
    threads = n if FASTBN_OPENMP else 1


def cache_sizes():
    """Bytes of the data caches of one core as the system reports them: ``{"l1": ..., ...}``."""
    sizes = {}
    root = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for name in sorted(os.listdir(root)):
            if not name.startswith("index"):
                continue
            fields = {}
            for field in ("level", "type", "size"):
                with open(f"{root}/{name}/{field}", encoding="ascii") as file:
                    fields[field] = file.read().strip()
            if fields["type"] != "Instruction":
                unit = {"K": 1 << 10, "M": 1 << 20}.get(fields["size"].strip("0123456789"), 1)
                digits = fields["size"].rstrip("KM")
                sizes[f"l{fields['level']}"] = int(digits) * unit
    except (OSError, KeyError, ValueError):
        pass  # not Linux, or hidden by a container: the defaults below serve
    return sizes


def _quota():
    """CPUs that the cgroup's quota allows, or None."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            limit, period = file.read().split()
        return None if limit == "max" else max(1, -(-int(limit) // int(period)))
    except (OSError, ValueError):
        return None


def _choose_level():
    global level
    wanted = os.environ.get("FASTBN_ISA", "").strip().lower()
    usable = available_isas()
    if wanted and wanted not in LEVELS:
        raise ImportError(f"FASTBN_ISA={wanted!r} is not one of {', '.join(LEVELS)}")
    if wanted and wanted not in usable:
        raise ImportError(f"FASTBN_ISA={wanted!r}: this machine can run {', '.join(usable)}")
    level = LEVELS.index(wanted) if wanted else len(usable) - 1


def stream_from(nbytes, line_by_line=None):
    """For tests: calls that move at least so many bytes bypass the caches with their stores and
    prefetch; with ``None``, from where on it is faster. The same for how stores bypass the
    caches. Changes no result."""
    global forced_above, how_to_stream
    forced_above = -1.0 if nbytes is None else nbytes
    if line_by_line is None:
        line_by_line = own_above > 0
    how_to_stream = STREAM_LINES if line_by_line else STREAM_TURNS


def _choose_threads():
    global threads
    threads = max(1, omp_get_max_threads())  # OMP_NUM_THREADS, else the affinity mask
    quota = _quota()
    if quota is not None and "OMP_NUM_THREADS" not in os.environ:
        threads = min(threads, quota)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if threads > max(MOST_THREADS, 4 * usable):
        warnings.warn(
            f"OMP_NUM_THREADS asks for {threads} threads on {usable} cores; {usable} are used, "
            "and fastbn.set_num_threads takes another number",
            RuntimeWarning,
            stacklevel=2,
        )
        threads = usable


def _choose_sizes():
    """Half of L3 is what a call finds there again, as others use it, too: where more is read and
    written, stores bypass the caches. Memory takes them no faster from several threads than from
    one, but caches do, so several that copy go on through the caches until L3 is nearly full; those
    that read twice what they copy, run by run, are not faster for it.
    Virtual machines report an L3 that they share with many others, hence the limit.

    Intel's servers (with AVX-512 and 1 MB of L2 or more) have a large L3 on a mesh, which takes a
    line that is written more slowly than memory does: there stores bypass the caches as soon as a
    team's L2 does not hold what is read and written, and what is read at the same time is read line
    by line with them, which costs others time."""
    global far_above, copy_above, own_above
    sizes = cache_sizes()
    l3 = min(sizes.get("l3", 0), 32 << 20)
    far_above = max(8.0 * sizes.get("l2", 1 << 20), 0.5 * l3)
    copy_above = max(far_above, 0.8 * l3)
    if fastbn_cpu_is_intel() and "avx512" in available_isas() and sizes.get("l2", 0) >= 1 << 20:
        own_above = 1.25 * sizes["l2"]
    stream_from(None)


def _after_fork_in_child():
    # libgomp hangs in a child that forked after a parallel region: stay on one thread there
    global threads, forked
    threads = 1
    forked = True


if not open_scratch():
    raise ImportError("no key for what threads keep: too many are in use")
_choose_level()
_choose_threads()
_choose_sizes()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
