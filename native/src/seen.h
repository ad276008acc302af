/* The table behind native.dedup: who was sighted where and when; exact keys, open addressing.
 *
 * An entry is one sighting: person, place, lane, time. The key is the person, so that all sightings
 * of a person lie on one probe sequence and one walk meets them all; no two entries are equal. A
 * person has at most SEEN_PERSON_MAX of them: the newest, where newer is greater in (time, place,
 * lane). So what the table holds depends on the set of sightings and not on their order, and nobody
 * can make a walk long by showing one code a million times.
 *
 * One byte of tag a slot, 32 slots a group. A tag is 7 bits of the hash, SEEN_EMPTY or SEEN_GONE.
 * A key's probe sequence starts at group (hash & mask) and steps by 1, 2, 3, ... groups; with a
 * power of two of groups it visits each group exactly once. A walk ends at the first group that
 * has an empty slot.
 *
 * Invariants
 *   1. An entry lies in the first group of its sequence that had a vacant slot when it came, so no
 *      group before it has an empty slot.
 *   2. A group that has been without an empty slot never gets one again until all entries are
 *      moved: a removal writes SEEN_EMPTY only where the group still has another empty slot, else
 *      SEEN_GONE. Hence 1 survives every removal. An entry that gives way to a newer one of its
 *      person leaves its slot to it.
 *   3. used (live and gone slots) <= 7/8 of all slots, so an empty slot exists and walks end.
 *
 * Hash: SipHash-1-3 of the person key under a random key of the table. Person keys are HMAC
 * outputs, but outsiders choose whom they send; without the key nobody can aim two persons at one
 * group.
 */
#ifndef NATIVE_SEEN_H
#define NATIVE_SEEN_H

#include <stddef.h>
#include <stdint.h>

#include "machine.h"

enum { SEEN_GROUP = 32, SEEN_EMPTY = 0x80, SEEN_GONE = 0xFE, SEEN_PERSON_MAX = 32 };

/* What a sighting is, held against the others of its person; bits of an answer. */
enum {
    SEEN_HERE = 1,  /* at this place, whichever lane, within the window */
    SEEN_LANES = 2, /* in another lane of this place, too soon */
    SEEN_ROAD = 4   /* at another place, sooner than the road between them allows */
};

typedef struct {
    uint64_t person[2];
    int64_t time_ms;
    uint32_t place;
    uint16_t lane;
    uint16_t pad;
} seen_slot;

typedef struct {
    uint8_t *tags;     /* group_count * SEEN_GROUP, aligned to 64 */
    seen_slot *slots;  /* as many */
    size_t group_count; /* a power of two */
    size_t live;       /* entries held */
    size_t used;       /* live and SEEN_GONE */
    uint64_t hash_key[2];
} seen_table;

/* A road between two places, low < high. */
typedef struct {
    uint32_t low, high;
    uint64_t least_ms;
} seen_road;

/* What is near in time. Sightings least_ms apart, or more, are no contradiction. */
typedef struct {
    uint64_t window_ms;    /* SEEN_HERE: at most so far apart */
    uint64_t lanes_ms;     /* SEEN_LANES: less than that apart */
    uint64_t road_max_ms;  /* the longest of the roads, 0 without any */
    const seen_road *roads; /* ascending in (low, high), no pair twice */
    size_t road_count;
} seen_rules;

/* One batch of packed columns; nothing in it need be aligned. */
typedef struct {
    const uint8_t *persons;  /* 16 bytes each */
    const uint8_t *places;   /* u32 each */
    const uint8_t *lanes;    /* u16 each */
    const uint8_t *times_ms; /* i64 each */
    size_t count;
    const seen_rules *rules;
    uint8_t *answers;        /* written: SEEN_ bits */
} seen_batch;

typedef struct {
    /* Needs used + count <= 7/8 of the slots. */
    void (*see)(seen_table *table, const seen_batch *batch);
    /* Puts every entry of source into target, which must be empty and large enough. */
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

/* Removes what was sighted before before_ms; how many. */
size_t seen_expire(seen_table *table, int64_t before_ms);

/* Remove every sighting of a person; how many. Walks all slots. */
size_t seen_forget(seen_table *table, const uint64_t person[2]);

uint64_t seen_hash(const uint64_t hash_key[2], const uint64_t person[2]);

#endif
