"""C face of native.cards: the payload of a card or an app to a person."""

from libc.stdint cimport uint8_t, uint32_t

from native.people cimport Person

# Whether the payload is of a plain form. today: yyyymmdd, that no birth may lie behind.
cdef bint read_person(
    const uint8_t* text, size_t size, uint32_t today, Person* person
) noexcept nogil
