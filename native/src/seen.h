/* The table behind native.dedup: (person, place) -> last time seen, exact keys, open addressing.
 *
 * One byte of tag a slot, 32 slots a group. A tag is 7 bits of the hash, SEEN_EMPTY or SEEN_GONE.
 * A key's probe sequence starts at group (hash & mask) and steps by 1, 2, 3, ... groups; with a
 * power of two of groups it visits each group exactly once. A search ends at the first group that
 * has an empty slot.
 *
 * Invariants
 *   1. A key lies in the first group of its sequence that had a vacant slot when it came, so no
 *      group before it has an empty slot.
 *   2. A group that has been without an empty slot never gets one again until all keys are moved:
 *      a removal writes SEEN_EMPTY only where the group still has another empty slot, else
 *      SEEN_GONE. Hence 1 survives every removal.
 *   3. used (live and gone slots) <= 7/8 of all slots, so an empty slot exists and searches end.
 *
 * Hash: SipHash-1-3 of the 20 bytes person, place under a random key of the table. Person keys are
 * HMAC outputs, place numbers are not, and outsiders choose both; without the key nobody can aim
 * two pairs at one group.
 */
#ifndef NATIVE_SEEN_H
#define NATIVE_SEEN_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

enum { SEEN_GROUP = 32, SEEN_EMPTY = 0x80, SEEN_GONE = 0xFE };

typedef struct {
    uint64_t person[2];
    int64_t last_ms;
    uint32_t place;
    uint32_t pad;
} seen_slot;

typedef struct {
    uint8_t *tags;     /* group_count * SEEN_GROUP, aligned to 64 */
    seen_slot *slots;  /* as many */
    size_t group_count; /* a power of two */
    size_t live;       /* pairs held */
    size_t used;       /* live and SEEN_GONE */
    uint64_t hash_key[2];
} seen_table;

/* One batch of packed columns; nothing in it need be aligned. */
typedef struct {
    const uint8_t *persons;  /* 16 bytes each */
    const uint8_t *places;   /* u32 each */
    const uint8_t *times_ms; /* i64 each */
    size_t count;
    uint64_t window_ms;
    uint8_t *answers;        /* written: 0 new, 1 seen */
} seen_batch;

typedef struct {
    /* Needs used + count <= 7/8 of the slots. */
    void (*see)(seen_table *table, const seen_batch *batch);
    /* Puts every pair of source into target, which must be empty and large enough. */
    void (*move)(seen_table *target, const seen_table *source);
} seen_kernel;

extern const seen_kernel seen_scalar;
#if defined(CPU_HAS_AVX2_CODE)
extern const seen_kernel seen_avx2;
#endif
#if defined(CPU_HAS_NEON_CODE)
extern const seen_kernel seen_neon;
#endif

/* The kernel of a level of native.cpu. */
const seen_kernel *seen_kernel_at(int level);

/* Allocates an empty table of group_count groups, a power of two; 0 when memory is short. */
int seen_open(seen_table *table, size_t group_count, const uint64_t hash_key[2]);
void seen_close(seen_table *table);

/* Removes what was last seen before before_ms; how many. */
size_t seen_expire(seen_table *table, int64_t before_ms);

uint64_t seen_hash(const uint64_t hash_key[2], const uint64_t person[2], uint32_t place);

#endif
