/* SHA-256 in portable C, and the door to both kernels. */
#include "sha256.h"

#include <string.h>

#include "machine.h"
#include "sha256_table.h"

static inline uint32_t turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* A round with the eight words of the state at the turns they have in it. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                         \
    do {                                                                                         \
        h += (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (g ^ (e & (f ^ g))) + SHA256_K[i] + w[i]; \
        d += h;                                                                                  \
        h += (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) | (c & (a | b)));               \
    } while (0)

static void blocks_scalar(uint32_t state[8], const uint8_t *at, size_t count)
{
    uint32_t w[64];
    while (count--) {
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int i = 0; i < 16; i++)
            w[i] = load_be32(at + 4 * i);
        for (int i = 16; i < 64; i++) {
            uint32_t early = w[i - 15], late = w[i - 2];
            w[i] = w[i - 16] + w[i - 7] + (turn(early, 7) ^ turn(early, 18) ^ early >> 3) +
                   (turn(late, 17) ^ turn(late, 19) ^ late >> 10);
        }
        for (int i = 0; i < 64; i += 8) {
            ROUND(a, b, c, d, e, f, g, h, i);
            ROUND(h, a, b, c, d, e, f, g, i + 1);
            ROUND(g, h, a, b, c, d, e, f, i + 2);
            ROUND(f, g, h, a, b, c, d, e, i + 3);
            ROUND(e, f, g, h, a, b, c, d, i + 4);
            ROUND(d, e, f, g, h, a, b, c, i + 5);
            ROUND(c, d, e, f, g, h, a, b, i + 6);
            ROUND(b, c, d, e, f, g, h, a, i + 7);
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
        state[4] += e, state[5] += f, state[6] += g, state[7] += h;
        at += SHA256_BLOCK;
    }
}

void sha256_begin(uint32_t state[8])
{
    /* The first 32 bits of the fractional parts of the square roots of the first 8 primes. */
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(state, first, sizeof first);
}

void sha256_blocks(uint32_t state[8], const uint8_t *blocks, size_t count, int is_fast)
{
#if defined(CPU_HAS_AVX2_CODE)
    if (is_fast) {
        sha256_blocks_ni(state, blocks, count);
        return;
    }
#else
    (void)is_fast;
#endif
    blocks_scalar(state, blocks, count);
}

void sha256_end(const uint32_t state[8], uint64_t before, const uint8_t *tail, size_t size,
                uint8_t *digest, int is_fast)
{
    uint8_t last[2 * SHA256_BLOCK] = {0};
    uint32_t s[8];
    size_t whole = size / SHA256_BLOCK, rest = size % SHA256_BLOCK;
    size_t ends = rest < SHA256_BLOCK - 8 ? 1 : 2;
    memcpy(s, state, sizeof s);
    sha256_blocks(s, tail, whole, is_fast);
    memcpy(last, tail + whole * SHA256_BLOCK, rest);
    last[rest] = 0x80;
    store_be64(last + ends * SHA256_BLOCK - 8, (before + size) * 8);
    sha256_blocks(s, last, ends, is_fast);
    for (int i = 0; i < 8; i++) {
        uint32_t word = __builtin_bswap32(s[i]);
        memcpy(digest + 4 * i, &word, 4);
    }
}

void wipe(void *at, size_t size)
{
    volatile uint8_t *byte = at;
    while (size--)
        *byte++ = 0;
}
