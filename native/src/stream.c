/* The choice of the kernel. AArch64 keeps the scalar one: it rotates in one instruction, and a
 * vector holds but two words there.
 */
#include "stream.h"

const stream_kernel *stream_kernel_at(int level)
{
    switch (level) {
#if defined(CPU_HAS_AVX2_CODE)
    case CPU_AVX2:
        return &stream_avx2;
#endif
    default:
        return &stream_scalar;
    }
}
