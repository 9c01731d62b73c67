/* Threads, memory and time, from the operating system. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "native.h"

typedef struct {
    void (*task)(void *, int64_t, int);
    void *context;
    int64_t count;
    atomic_long next;
} Work;

typedef struct {
    Work *work;
    int number;
} Worker;

static void *work_on(void *argument) {
    const Worker *worker = argument;
    Work *work = worker->work;
    for (int64_t i; (i = atomic_fetch_add(&work->next, 1)) < work->count;)
        work->task(work->context, i, worker->number);
    return NULL;
}

/* Threads live for one call: starting one takes microseconds, a chunk a large part of a second, and
 * none is left to survive a fork or to idle on a frozen sandbox. */
void run_parallel(int threads, int64_t count, void (*task)(void *, int64_t, int), void *context) {
    Work work = {task, context, count, 0};
    if (threads > count) threads = (int)count;
    Worker workers[threads < 1 ? 1 : threads];
    pthread_t handles[threads < 1 ? 1 : threads];
    int started = 1;
    workers[0] = (Worker){&work, 0};
    for (; started < threads; started++) {
        workers[started] = (Worker){&work, started};
        if (pthread_create(&handles[started], NULL, work_on, &workers[started])) break;
    }
    work_on(&workers[0]);
    for (int i = 1; i < started; i++) pthread_join(handles[i], NULL);
}

void *allocate(int64_t floats) {
    size_t bytes = (size_t)floats * sizeof(float);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

void release(void *memory, int64_t floats) {
    if (memory) munmap(memory, (size_t)floats * sizeof(float));
}

int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
