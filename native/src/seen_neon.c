/* The table's kernels with NEON: the 32 tags of a group in two compares. */
#include "machine.h"
#include "seen.h"

#if defined(CPU_HAS_NEON_CODE)
#include <arm_neon.h>

#define SEEN_TARGET
#define SEEN_KERNEL seen_neon

/* NEON has no movemask: keep bit i%8 of byte i, then add up the bytes of each half. */
static inline uint32_t mask_bits(uint8x16_t low, uint8x16_t high)
{
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t weight = vld1q_u8(weights);
    const uint8x16_t a = vandq_u8(low, weight);
    const uint8x16_t b = vandq_u8(high, weight);
    return (uint32_t)vaddv_u8(vget_low_u8(a)) | (uint32_t)vaddv_u8(vget_high_u8(a)) << 8 |
           (uint32_t)vaddv_u8(vget_low_u8(b)) << 16 | (uint32_t)vaddv_u8(vget_high_u8(b)) << 24;
}

static inline uint32_t group_match(const uint8_t *tags, uint8_t tag)
{
    const uint8x16_t wanted = vdupq_n_u8(tag);
    return mask_bits(vceqq_u8(vld1q_u8(tags), wanted), vceqq_u8(vld1q_u8(tags + 16), wanted));
}

static inline uint32_t group_vacant(const uint8_t *tags)
{
    const uint8x16_t top = vdupq_n_u8(SEEN_EMPTY);
    return mask_bits(vcgeq_u8(vld1q_u8(tags), top), vcgeq_u8(vld1q_u8(tags + 16), top));
}

#include "seen_kernel.h"
#else
typedef int seen_neon_is_for_other_machines;
#endif
