/* What every kernel takes for granted about the machine, and loads that need no alignment.
 *
 * Packed rows, entries and heads are little-endian by definition and written as plain structs, so
 * a big-endian machine is refused here instead of writing other bytes.
 */
#ifndef NATIVE_MACHINE_H
#define NATIVE_MACHINE_H

#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "native/ is written for little-endian machines"
#endif

/* Levels of native.cpu; the numbers index the names in cpu.pyx. */
enum { CPU_SCALAR = 0, CPU_AVX2 = 1, CPU_NEON = 2 };

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define CPU_HAS_AVX2_CODE 1
#endif
#if defined(__aarch64__)
#define CPU_HAS_NEON_CODE 1
#endif

static inline uint64_t load_u64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint32_t load_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint16_t load_u16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t load_be64(const uint8_t *at) { return __builtin_bswap64(load_u64(at)); }
static inline uint32_t load_be32(const uint8_t *at) { return __builtin_bswap32(load_u32(at)); }
static inline uint16_t load_be16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static inline void store_be64(uint8_t *at, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(at, &value, sizeof value);
}

#endif
