/* The table's memory, its expiry, and the choice of its kernel. */
#include "seen.h"

#include <stdlib.h>

#include "siphash.h"

const seen_kernel *seen_kernel_at(int level)
{
    switch (level) {
#if defined(CPU_HAS_AVX2_CODE)
    case CPU_AVX2:
        return &seen_avx2;
#endif
#if defined(CPU_HAS_NEON_CODE)
    case CPU_NEON:
        return &seen_neon;
#endif
    default:
        return &seen_scalar;
    }
}

int seen_open(seen_table *table, size_t group_count, const uint64_t hash_key[2])
{
    const size_t slot_count = group_count * SEEN_GROUP;
    const size_t tags_size = slot_count < 64 ? 64 : slot_count; /* a multiple of the alignment */
    memset(table, 0, sizeof *table);
    table->tags = aligned_alloc(64, tags_size);
    table->slots = aligned_alloc(64, slot_count * sizeof(seen_slot));
    if (table->tags == NULL || table->slots == NULL) {
        seen_close(table);
        return 0;
    }
    memset(table->tags, SEEN_EMPTY, tags_size);
    table->group_count = group_count;
    table->hash_key[0] = hash_key[0];
    table->hash_key[1] = hash_key[1];
    return 1;
}

void seen_close(seen_table *table)
{
    free(table->tags);
    free(table->slots);
    memset(table, 0, sizeof *table);
}

/* Remove what is before an instant, and everything of a person if one is given. */
static size_t remove_entries(seen_table *table, int64_t before_ms, const uint64_t *person)
{
    size_t removed = 0;
    for (size_t group = 0; group < table->group_count; group++) {
        uint8_t *tags = table->tags + group * SEEN_GROUP;
        const seen_slot *slots = table->slots + group * SEEN_GROUP;
        /* Invariant 2: only a group with an empty slot may get more of them. */
        const int has_empty = memchr(tags, SEEN_EMPTY, SEEN_GROUP) != NULL;
        for (int i = 0; i < SEEN_GROUP; i++) {
            if (tags[i] >= SEEN_EMPTY)
                continue;
            const int is_wanted = person != NULL && slots[i].person[0] == person[0] &&
                                  slots[i].person[1] == person[1];
            if (slots[i].time_ms >= before_ms && !is_wanted)
                continue;
            tags[i] = has_empty ? SEEN_EMPTY : SEEN_GONE;
            table->used -= (size_t)has_empty;
            removed++;
        }
    }
    table->live -= removed;
    return removed;
}

size_t seen_expire(seen_table *table, int64_t before_ms)
{
    return remove_entries(table, before_ms, NULL);
}

size_t seen_forget(seen_table *table, const uint64_t person[2])
{
    return remove_entries(table, INT64_MIN, person);
}

uint64_t seen_hash(const uint64_t hash_key[2], const uint64_t person[2])
{
    return siphash_16(hash_key, person);
}
