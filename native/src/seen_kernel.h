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
    seen_slot sighting;
    uint64_t hash;
} seen_key;

static inline uint8_t hash_tag(uint64_t hash) { return (uint8_t)(hash >> 57); }

/* Distance without overflow: the difference of two i64 fits u64. */
static inline uint64_t distance(int64_t a, int64_t b)
{
    return a > b ? (uint64_t)a - (uint64_t)b : (uint64_t)b - (uint64_t)a;
}

/* The order of a person's sightings. */
static inline int is_later(const seen_slot *a, const seen_slot *b)
{
    if (a->time_ms != b->time_ms)
        return a->time_ms > b->time_ms;
    return a->place != b->place ? a->place > b->place : a->lane > b->lane;
}

static inline uint64_t road_ms(const seen_rules *rules, uint32_t a, uint32_t b)
{
    const uint32_t low = a < b ? a : b, high = a < b ? b : a;
    size_t first = 0, end = rules->road_count;
    while (first < end) {
        const size_t middle = first + (end - first) / 2;
        const seen_road *road = &rules->roads[middle];
        if (road->low == low && road->high == high)
            return road->least_ms;
        if (road->low < low || (road->low == low && road->high < high))
            first = middle + 1;
        else
            end = middle;
    }
    return 0;
}

/* What two different sightings of one person are to each other. */
static inline uint8_t compare(const seen_rules *rules, const seen_slot *a, const seen_slot *b)
{
    const uint64_t apart_ms = distance(a->time_ms, b->time_ms);
    if (a->place == b->place)
        return (uint8_t)((apart_ms <= rules->window_ms ? SEEN_HERE : 0) |
                         (a->lane != b->lane && apart_ms < rules->lanes_ms ? SEEN_LANES : 0));
    if (apart_ms >= rules->road_max_ms)
        return 0;
    return apart_ms < road_ms(rules, a->place, b->place) ? SEEN_ROAD : 0;
}

static inline seen_key load_key(const seen_table *table, const seen_batch *batch, size_t i)
{
    seen_key key = {.sighting = {
        .person = {load_u64(batch->persons + 16 * i), load_u64(batch->persons + 16 * i + 8)},
        .time_ms = (int64_t)load_u64(batch->times_ms + 8 * i),
        .place = load_u32(batch->places + 4 * i),
        .lane = load_u16(batch->lanes + 2 * i),
    }};
    key.hash = siphash_16(table->hash_key, key.sighting.person);
    return key;
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

/* One walk over the person's sightings: compares with each, and finds where this one belongs. A
 * sighting that is there already is the same scan sent again; it is not held against itself. */
SEEN_TARGET static inline uint8_t see_one(seen_table *table, const seen_key *key,
                                          const seen_rules *rules)
{
    const size_t mask = table->group_count - 1;
    const seen_slot *new = &key->sighting;
    size_t group = key->hash & mask, vacant = NO_SLOT, oldest = NO_SLOT;
    unsigned held = 0;
    int is_known = 0;
    uint8_t answer = 0;
    for (size_t step = 1; step <= table->group_count; step++) {
        const uint8_t *tags = table->tags + group * SEEN_GROUP;
        uint32_t matches = group_match(tags, hash_tag(key->hash));
        for (; matches != 0; matches &= matches - 1) {
            const size_t at = group * SEEN_GROUP + (size_t)__builtin_ctz(matches);
            const seen_slot *slot = &table->slots[at];
            if (slot->person[0] != new->person[0] || slot->person[1] != new->person[1])
                continue;
            held++;
            if (slot->time_ms == new->time_ms && slot->place == new->place &&
                slot->lane == new->lane) {
                is_known = 1;
                continue;
            }
            answer |= compare(rules, slot, new);
            if (oldest == NO_SLOT || is_later(&table->slots[oldest], slot))
                oldest = at;
        }
        if (vacant == NO_SLOT) {
            const uint32_t free_slots = group_vacant(tags);
            if (free_slots != 0)
                vacant = group * SEEN_GROUP + (size_t)__builtin_ctz(free_slots);
        }
        if (group_match(tags, SEEN_EMPTY) != 0)
            break;
        group = (group + step) & mask;
    }
    if (is_known)
        return answer;
    if (held >= SEEN_PERSON_MAX) {
        if (is_later(new, &table->slots[oldest]))
            table->slots[oldest] = *new;
        return answer;
    }
    assert(vacant != NO_SLOT);
    table->used += table->tags[vacant] == SEEN_EMPTY;
    table->live += 1;
    table->tags[vacant] = hash_tag(key->hash);
    table->slots[vacant] = *new;
    return answer;
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
        for (size_t i = 0; i < count; i++)
            batch->answers[start + i] = see_one(table, &keys[i], batch->rules);
    }
}

SEEN_TARGET static void move(seen_table *target, const seen_table *source)
{
    const size_t mask = target->group_count - 1;
    for (size_t from = 0; from < source->group_count * SEEN_GROUP; from++) {
        if (source->tags[from] >= SEEN_EMPTY)
            continue;
        const seen_slot *slot = &source->slots[from];
        const uint64_t hash = siphash_16(target->hash_key, slot->person);
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
