/* How a team shares the tasks of a job.
 *
 * Every thread has a part of its own, neighbouring tasks, which it works off in their order; then
 * it helps the others, from the end of their parts. Most kernels cut their work along the samples:
 * what a thread reads is then mostly what it wrote before, and lies in its caches. A thread that is
 * held up leaves what it has not begun to the others. Which thread does a task changes no result.
 *
 * A team has always the same size, whatever the job: OpenMP would end threads that a smaller one
 * does without, and make them anew for the next.
 */
#ifndef FASTBN_TASKS_H
#define FASTBN_TASKS_H

#include <stdint.h>

#include "common/omp_shim.h"

typedef void (*task_t)(const void *job, int64_t task);

#if FASTBN_OPENMP

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static inline uint64_t ends_of(volatile uint64_t *p) { return *p; }
static inline int exchange(volatile uint64_t *p, uint64_t *was, uint64_t now)
{
    const uint64_t found =
        (uint64_t)_InterlockedCompareExchange64((volatile int64_t *)p, (int64_t)now, (int64_t)*was);
    const int done = found == *was;
    *was = found;
    return done;
}
#else
static inline uint64_t ends_of(uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline int exchange(uint64_t *p, uint64_t *was, uint64_t now)
{
    return __atomic_compare_exchange_n(p, was, now, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
#endif

enum { MOST_PARTS = 64 };

/* The tasks of a part that nobody has begun: from the lower half of `ends` up to its upper half. A
 * cache line for each, lest threads wait for one another's. */
typedef struct {
    uint64_t ends, apart[7];
} part_t;

/* The first one of the tasks, or the last one; -1 where none is left. */
static inline int64_t take_task(part_t *part, int first)
{
    uint64_t was = ends_of(&part->ends);
    while ((uint32_t)was != was >> 32)
        if (exchange(&part->ends, &was, first ? was + 1 : was - (UINT64_C(1) << 32)))
            return first ? (int64_t)(uint32_t)was : (int64_t)(was >> 32) - 1;
    return -1;
}

static void share_tasks(task_t work, const void *job, int64_t tasks, int threads)
{
    part_t parts[MOST_PARTS];
    const int count = threads < MOST_PARTS ? threads : MOST_PARTS;
    for (int k = 0; k < count; k++)
        parts[k].ends = (uint64_t)(tasks * k / count) | (uint64_t)(tasks * (k + 1) / count) << 32;
#pragma omp parallel num_threads(threads)
    {
        const int own = omp_get_thread_num() % count;
        int64_t task;
        for (int k = 0; k < count; k++)
            while ((task = take_task(&parts[(own + k) % count], k == 0)) >= 0)
                work(job, task);
    }
}

#endif

/* All tasks of a job on at most so many threads. One thread, or one task, forms no team: that costs
 * as much as a small array. */
static inline void tasks_of_job(task_t work, const void *job, int64_t tasks, int threads)
{
#if FASTBN_OPENMP
    if (threads > 1 && tasks > 1 && tasks <= INT32_MAX) {
        share_tasks(work, job, tasks, threads);
        return;
    }
#else
    (void)threads;
#endif
    for (int64_t task = 0; task < tasks; task++)
        work(job, task);
}

#endif
