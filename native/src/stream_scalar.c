/* The streams' kernels without vectors. */
#include "siphash.h"
#include "stream.h"

static void run(const uint64_t key[2], uint64_t first, const uint64_t *words, uint64_t *opened,
                size_t count)
{
    for (size_t i = 0; i < count; i++)
        opened[i] = words[i] ^ siphash24_8(key, first + i);
}

static void each(const uint64_t key[2], const uint64_t *at, uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        words[i] ^= siphash24_8(key, at[i]);
}

const stream_kernel stream_scalar = {run, each};
