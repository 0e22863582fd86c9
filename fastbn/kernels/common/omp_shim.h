/* OpenMP's questions, answered for one thread where the compiler has no OpenMP. */
#ifndef FASTBN_OMP_SHIM_H
#define FASTBN_OMP_SHIM_H

#ifdef _OPENMP
#include <omp.h>
#define FASTBN_OPENMP 1
#else
#define FASTBN_OPENMP 0
static inline int omp_get_num_procs(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_get_max_threads(void) { return 1; }
static inline int omp_in_parallel(void) { return 0; }
#endif

#endif
