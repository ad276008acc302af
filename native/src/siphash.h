/* SipHash (Aumasson, Bernstein: "SipHash: a fast short-input PRF", section 2).
 *
 * For tables SipHash-1-3 of 16 bytes: one compression round a word, three at the end, as in CPython
 * and Rust. For sealing SipHash-2-4 of 8 bytes, which the paper proposes as a PRF.
 */
#ifndef NATIVE_SIPHASH_H
#define NATIVE_SIPHASH_H

#include <stdint.h>

static inline uint64_t sip_rotate(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1]; v[2] += v[3];
    v[1] = sip_rotate(v[1], 13) ^ v[0]; v[3] = sip_rotate(v[3], 16) ^ v[2];
    v[0] = sip_rotate(v[0], 32);
    v[2] += v[1]; v[0] += v[3];
    v[1] = sip_rotate(v[1], 17) ^ v[2]; v[3] = sip_rotate(v[3], 21) ^ v[0];
    v[2] = sip_rotate(v[2], 32);
}

static inline uint64_t siphash_16(const uint64_t key[2], const uint64_t data[2])
{
    /* The last word holds what is left, here nothing, and in its top byte the length. */
    const uint64_t words[3] = {data[0], data[1], (uint64_t)16 << 56};
    uint64_t v[4] = {
        key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
        key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573),
    };
    for (int i = 0; i < 3; i++) {
        v[3] ^= words[i];
        sip_round(v);
        v[0] ^= words[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static inline uint64_t siphash24_8(const uint64_t key[2], uint64_t data)
{
    const uint64_t words[2] = {data, (uint64_t)8 << 56};
    uint64_t v[4] = {
        key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
        key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573),
    };
    for (int i = 0; i < 2; i++) {
        v[3] ^= words[i];
        sip_round(v);
        sip_round(v);
        v[0] ^= words[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#endif
