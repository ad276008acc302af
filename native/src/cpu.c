/* Detection of the instruction level. No ifunc: its resolvers run before ASan is ready. */
#include "cpu.h"
#include "machine.h"

#if defined(CPU_HAS_AVX2_CODE)
#include <cpuid.h>
#endif

int cpu_best(void)
{
#if defined(CPU_HAS_AVX2_CODE)
    __builtin_cpu_init();
    /* Every CPU with AVX2 so far has the other two; kernels take them for granted. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
                   __builtin_cpu_supports("popcnt")
               ? CPU_AVX2
               : CPU_SCALAR;
#elif defined(CPU_HAS_NEON_CODE)
    return CPU_NEON; /* part of the AArch64 base */
#else
    return CPU_SCALAR;
#endif
}

int cpu_has_sha(void)
{
#if defined(CPU_HAS_AVX2_CODE)
    unsigned int a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
#else
    return 0;
#endif
}
