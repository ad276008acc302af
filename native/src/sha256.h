/* SHA-256 (FIPS 180-4), the compression alone: what an HMAC over short messages needs.
 *
 * A library's call costs several hundred nanoseconds around the hash of one block, which itself
 * takes some fifty with the CPU's own instructions.
 */
#ifndef NATIVE_SHA256_H
#define NATIVE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BLOCK = 64, SHA256_SIZE = 32 };

/* The state before the first block. */
void sha256_begin(uint32_t state[8]);

/* Takes `count` blocks of 64 bytes into the state. is_fast: with the CPU's own instructions, only
 * where cpu_has_sha() says so. */
void sha256_blocks(uint32_t state[8], const uint8_t *blocks, size_t count, int is_fast);

/* Finishes: the state has taken `before` bytes (whole blocks) and takes `size` more, then padding.
 * digest: 32 bytes, written. The state is the caller's and stays as it was. */
void sha256_end(const uint32_t state[8], uint64_t before, const uint8_t *tail, size_t size,
                uint8_t *digest, int is_fast);

/* Overwrites what no one may find later; never optimised away. */
void wipe(void *at, size_t size);

/* The kernel of sha256_ni.c; nothing where it is not built. */
void sha256_blocks_ni(uint32_t state[8], const uint8_t *blocks, size_t count);

#endif
