/* The table's kernels without vector instructions: eight tags a 64-bit word. */
#include "machine.h"

#define SEEN_TARGET
#define SEEN_KERNEL seen_scalar

#define BYTES(value) (UINT64_C(0x0101010101010101) * (value))

/* Bit i of the result is the top bit of byte i. The multiplier is the sum of 2**7k for k = 1..8;
 * the top bit of byte i, shifted down to bit 8i, meets 2**(56 - 7i) at bit 56 + i, and no two
 * products meet elsewhere, so nothing carries. */
static inline uint32_t top_bits(uint64_t word)
{
    return (uint32_t)(((word >> 7 & BYTES(1)) * UINT64_C(0x0102040810204080)) >> 56);
}

/* Top bit of each byte that is zero; exact, without the false hits of the shorter formula. */
static inline uint64_t zero_bytes(uint64_t word)
{
    return ~(((word & BYTES(0x7F)) + BYTES(0x7F)) | word | BYTES(0x7F));
}

static inline uint32_t group_match(const uint8_t *tags, uint8_t tag)
{
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= top_bits(zero_bytes(load_u64(tags + 8 * i) ^ BYTES(tag))) << 8 * i;
    return bits;
}

static inline uint32_t group_vacant(const uint8_t *tags)
{
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= top_bits(load_u64(tags + 8 * i)) << 8 * i;
    return bits;
}

#include "seen_kernel.h"
