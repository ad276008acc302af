/* Marks for callgrind, and a count of what CPython allocates. Built and loaded by bench.gauge. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__has_include)
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#define HAS_MARKS 1
#endif
#endif

/* 1 under callgrind, 0 elsewhere. */
int gauge_is_counting(void) {
#ifdef HAS_MARKS
  return RUNNING_ON_VALGRIND != 0;
#else
  return 0;
#endif
}

/* Instructions count from here on, from 0. */
void gauge_begin(void) {
#ifdef HAS_MARKS
  CALLGRIND_START_INSTRUMENTATION;
  CALLGRIND_ZERO_STATS;
#endif
}

/* Writes what was counted to a file of callgrind's, under this name. */
void gauge_end(const char *name) {
#ifdef HAS_MARKS
  CALLGRIND_DUMP_STATS_AT(name);
  CALLGRIND_STOP_INSTRUMENTATION;
#else
  (void)name;
#endif
}

/* The domains whose users hold the GIL, so that nothing but it guards the count. */
static const PyMemAllocatorDomain DOMAINS[2] = {PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
static PyMemAllocatorEx inner[2];
static unsigned long long allocations;

static void *count_malloc(void *ctx, size_t size) {
  PyMemAllocatorEx *of = ctx;
  allocations++;
  return of->malloc(of->ctx, size);
}

static void *count_calloc(void *ctx, size_t count, size_t size) {
  PyMemAllocatorEx *of = ctx;
  allocations++;
  return of->calloc(of->ctx, count, size);
}

static void *count_realloc(void *ctx, void *old, size_t size) {
  PyMemAllocatorEx *of = ctx;
  allocations++;
  return of->realloc(of->ctx, old, size);
}

static void pass_free(void *ctx, void *old) {
  PyMemAllocatorEx *of = ctx;
  of->free(of->ctx, old);
}

void gauge_count_begin(void) {
  allocations = 0;
  for (int i = 0; i < 2; i++) {
    PyMem_GetAllocator(DOMAINS[i], &inner[i]);
    PyMemAllocatorEx counting = {&inner[i], count_malloc, count_calloc, count_realloc, pass_free};
    PyMem_SetAllocator(DOMAINS[i], &counting);
  }
}

/* How many there were since the beginning; reallocations are among them. */
unsigned long long gauge_count_end(void) {
  for (int i = 0; i < 2; i++) PyMem_SetAllocator(DOMAINS[i], &inner[i]);
  return allocations;
}
