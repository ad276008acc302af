/* The table's kernels with AVX2: the 32 tags of a group in one compare.
 *
 * Bought, counted by callgrind (gcc 12.2 -O3, 10,000 persons, batches of 64, the call from Python
 * included): 277 instructions for a sighting of somebody new against 399 of the scalar kernel, 334
 * against 464 beside one sighting that is known, 370 against 506 beside two.
 */
#include "machine.h"

#if defined(CPU_HAS_AVX2_CODE)
#include <immintrin.h>

#define SEEN_TARGET __attribute__((target("avx2")))
#define SEEN_KERNEL seen_avx2

SEEN_TARGET static inline uint32_t group_match(const uint8_t *tags, uint8_t tag)
{
    const __m256i all = _mm256_load_si256((const __m256i *)tags);
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(all, _mm256_set1_epi8((char)tag)));
}

SEEN_TARGET static inline uint32_t group_vacant(const uint8_t *tags)
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_load_si256((const __m256i *)tags));
}

#include "seen_kernel.h"
#else
typedef int seen_avx2_is_for_other_machines;
#endif
