/* Which inverse DCT runs at which level. */
#include "jpeg_idct.h"

jpeg_transform *jpeg_transform_at(int level)
{
#if defined(CPU_HAS_AVX2_CODE)
    if (level == CPU_AVX2)
        return jpeg_transform_avx2;
#endif
#if defined(CPU_HAS_NEON_CODE)
    if (level == CPU_NEON)
        return jpeg_transform_neon;
#endif
    return jpeg_transform_scalar;
}
