/* Streams that seal columns: word i of one is SipHash-2-4 of its number, for any i by itself.
 *
 * Sealing and opening are the same: exclusive or with the stream. siphash.h makes one word; these
 * kernels make several at a time, which is most of the work wherever rows are walked.
 */
#ifndef NATIVE_STREAM_H
#define NATIVE_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

typedef struct {
    /* opened[i] = words[i] ^ the stream's word `first + i`; opened may be words. */
    void (*run)(const uint64_t key[2], uint64_t first, const uint64_t *words, uint64_t *opened,
                size_t count);
    /* words[i] ^= the stream's word at[i]. */
    void (*each)(const uint64_t key[2], const uint64_t *at, uint64_t *words, size_t count);
} stream_kernel;

extern const stream_kernel stream_scalar, stream_avx2;

const stream_kernel *stream_kernel_at(int level);

#endif
