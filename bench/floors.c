/* What no program can beat on this machine; built and timed by bench.floors. */
#include <stdint.h>
#include <stddef.h>
#include <unistd.h>

/* `count` Huffman symbols at the least: bits shifted, a table asked, and the length that it gives
   decides where the next symbol begins. */
uint64_t floor_symbols(const uint8_t *lengths, uint64_t bits, size_t count) {
  uint64_t at = bits;
  size_t i;
  for (i = 0; i < count; i++) {
    uint8_t length = lengths[at >> 56];
    at = (at << length) | (at >> (64 - length));
  }
  return at;
}

/* The bytes of a plane, read once. */
uint64_t floor_read(const uint64_t *words, size_t count) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  size_t i;
  for (i = 0; i + 4 <= count; i += 4) {
    a ^= words[i], b ^= words[i + 1], c ^= words[i + 2], d ^= words[i + 3];
  }
  return a ^ b ^ c ^ d;
}

/* `count` calls of the system's cheapest. */
long floor_calls(size_t count) {
  long found = 0;
  size_t i;
  for (i = 0; i < count; i++) {
    found += getppid();
  }
  return found;
}

/* `count` looks into memory, each where the one before says. */
uint64_t floor_misses(const uint64_t *next, size_t count) {
  uint64_t at = 0;
  size_t i;
  for (i = 0; i < count; i++) {
    at = next[at];
  }
  return at;
}
