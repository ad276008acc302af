/* The batch kernels of the table, written once and compiled once per instruction set.
 *
 * The including file defines SEEN_TARGET (a target attribute or nothing), SEEN_KERNEL (the name of
 * the seen_kernel) and two functions over the 32 tags of a group; bit i of the result is slot i:
 *   group_match(tags, tag)   tags equal to tag
 *   group_vacant(tags)       tags that are SEEN_EMPTY or SEEN_GONE
 */
#include <assert.h>

#include "seen.h"
#include "siphash.h"

/* Keys hashed ahead of the one that is looked up. Large tables miss the cache once for the tags and
 * once for the slot; sixteen keys ahead, both are on their way before they are needed. */
enum { AHEAD = 16 };

#define NO_SLOT SIZE_MAX

typedef struct {
    uint64_t person[2];
    uint64_t hash;
    uint32_t place;
} seen_key;

static inline uint8_t hash_tag(uint64_t hash) { return (uint8_t)(hash >> 57); }

static inline int is_slot_of(const seen_slot *slot, const seen_key *key)
{
    return slot->person[0] == key->person[0] && slot->person[1] == key->person[1] &&
           slot->place == key->place;
}

/* Distance without overflow: the difference of two i64 fits u64. */
static inline int is_within(int64_t a, int64_t b, uint64_t window_ms)
{
    const uint64_t distance = a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
    return distance <= window_ms;
}

static inline seen_key load_key(const seen_table *table, const seen_batch *batch, size_t i)
{
    seen_key key;
    key.person[0] = load_u64(batch->persons + 16 * i);
    key.person[1] = load_u64(batch->persons + 16 * i + 8);
    key.place = load_u32(batch->places + 4 * i);
    key.hash = siphash_20(table->hash_key, key.person, key.place);
    return key;
}

/* The slot of key, or NO_SLOT and in *vacant the slot where it belongs. */
SEEN_TARGET static inline size_t find(const seen_table *table, const seen_key *key, size_t *vacant)
{
    const size_t mask = table->group_count - 1;
    size_t group = key->hash & mask;
    *vacant = NO_SLOT;
    for (size_t step = 1; step <= table->group_count; step++) {
        const uint8_t *tags = table->tags + group * SEEN_GROUP;
        uint32_t matches = group_match(tags, hash_tag(key->hash));
        for (; matches != 0; matches &= matches - 1) {
            const size_t slot = group * SEEN_GROUP + (size_t)__builtin_ctz(matches);
            if (is_slot_of(&table->slots[slot], key))
                return slot;
        }
        if (*vacant == NO_SLOT) {
            const uint32_t free_slots = group_vacant(tags);
            if (free_slots != 0)
                *vacant = group * SEEN_GROUP + (size_t)__builtin_ctz(free_slots);
        }
        if (group_match(tags, SEEN_EMPTY) != 0)
            break;
        group = (group + step) & mask;
    }
    return NO_SLOT;
}

/* Asks for the memory that key will need; wrong guesses cost nothing but the asking. */
SEEN_TARGET static inline void prefetch_slot(const seen_table *table, const seen_key *key)
{
    const size_t group = key->hash & (table->group_count - 1);
    const uint32_t matches = group_match(table->tags + group * SEEN_GROUP, hash_tag(key->hash));
    const uint32_t likely = matches != 0 ? matches : group_vacant(table->tags + group * SEEN_GROUP);
    if (likely != 0)
        __builtin_prefetch(&table->slots[group * SEEN_GROUP + (size_t)__builtin_ctz(likely)], 1);
}

/* seen iff |t - last| <= window; last = max(last, t) either way. */
SEEN_TARGET static inline uint8_t see_one(seen_table *table, const seen_key *key, int64_t time_ms,
                                          uint64_t window_ms)
{
    size_t vacant;
    const size_t found = find(table, key, &vacant);
    if (found != NO_SLOT) {
        seen_slot *slot = &table->slots[found];
        const int is_seen = is_within(time_ms, slot->last_ms, window_ms);
        if (time_ms > slot->last_ms)
            slot->last_ms = time_ms;
        return (uint8_t)is_seen;
    }
    assert(vacant != NO_SLOT);
    table->used += table->tags[vacant] == SEEN_EMPTY;
    table->live += 1;
    table->tags[vacant] = hash_tag(key->hash);
    table->slots[vacant] = (seen_slot){
        .person = {key->person[0], key->person[1]}, .last_ms = time_ms, .place = key->place};
    return 0;
}

SEEN_TARGET static void see(seen_table *table, const seen_batch *batch)
{
    seen_key keys[AHEAD];
    for (size_t start = 0; start < batch->count; start += AHEAD) {
        const size_t rest = batch->count - start;
        const size_t count = rest < AHEAD ? rest : AHEAD;
        for (size_t i = 0; i < count; i++) {
            keys[i] = load_key(table, batch, start + i);
            const size_t group = keys[i].hash & (table->group_count - 1);
            __builtin_prefetch(table->tags + group * SEEN_GROUP, 1);
        }
        for (size_t i = 0; i < count; i++)
            prefetch_slot(table, &keys[i]);
        for (size_t i = 0; i < count; i++) {
            const int64_t time_ms = (int64_t)load_u64(batch->times_ms + 8 * (start + i));
            batch->answers[start + i] = see_one(table, &keys[i], time_ms, batch->window_ms);
        }
    }
}

SEEN_TARGET static void move(seen_table *target, const seen_table *source)
{
    const size_t mask = target->group_count - 1;
    for (size_t from = 0; from < source->group_count * SEEN_GROUP; from++) {
        if (source->tags[from] >= SEEN_EMPTY)
            continue;
        const seen_slot *slot = &source->slots[from];
        const uint64_t hash = siphash_20(target->hash_key, slot->person, slot->place);
        size_t group = hash & mask;
        uint32_t free_slots = group_vacant(target->tags + group * SEEN_GROUP);
        for (size_t step = 1; free_slots == 0 && step < target->group_count; step++) {
            group = (group + step) & mask;
            free_slots = group_vacant(target->tags + group * SEEN_GROUP);
        }
        assert(free_slots != 0);
        const size_t to = group * SEEN_GROUP + (size_t)__builtin_ctz(free_slots);
        target->tags[to] = hash_tag(hash);
        target->slots[to] = *slot;
    }
    target->live = source->live;
    target->used = source->live;
}

const seen_kernel SEEN_KERNEL = {see, move};
