"""HMAC-SHA-256 (RFC 2104) of short messages under one key and label.

The two states behind the key's blocks are made once, so that a message of up to 23 bytes behind a
label of 32 costs two compressions. They are as good as the key: they stay in this object, and are
overwritten with it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from native.cpu cimport has_sha

cdef extern from "sha256.h":
    enum:
        SHA256_BLOCK
        SHA256_SIZE
    void sha256_begin(uint32_t* state) noexcept nogil
    void sha256_blocks(
        uint32_t* state, const uint8_t* blocks, size_t count, int is_fast
    ) noexcept nogil
    void sha256_end(
        const uint32_t* state, uint64_t before, const uint8_t* tail, size_t size,
        uint8_t* digest, int is_fast
    ) noexcept nogil
    void wipe(void* at, size_t size) noexcept nogil


cdef class Hmac:
    """key: up to 64 bytes. label: up to 32 bytes that stand before every message.

    Immutable. Raises ValueError for a longer key or label, and for an empty key.
    """

    def __cinit__(self, bytes key not None, bytes label not None = b""):
        cdef uint8_t block[SHA256_BLOCK]
        cdef size_t size = PyBytes_GET_SIZE(key)
        cdef size_t i
        if not 1 <= size <= SHA256_BLOCK:
            raise ValueError("a key has 1 to 64 bytes")
        if PyBytes_GET_SIZE(label) > LABEL_MAX:
            raise ValueError("a label has at most 32 bytes")
        self.label_size = PyBytes_GET_SIZE(label)
        memcpy(self.label, PyBytes_AS_STRING(label), self.label_size)
        memset(block, 0, SHA256_BLOCK)
        memcpy(block, PyBytes_AS_STRING(key), size)
        for i in range(<size_t> SHA256_BLOCK):
            block[i] ^= 0x36
        sha256_begin(self.inner)
        sha256_blocks(self.inner, block, 1, has_sha())
        for i in range(<size_t> SHA256_BLOCK):
            block[i] ^= 0x36 ^ 0x5C
        sha256_begin(self.outer)
        sha256_blocks(self.outer, block, 1, has_sha())
        wipe(block, SHA256_BLOCK)

    def __dealloc__(self):
        wipe(self.inner, sizeof(self.inner))
        wipe(self.outer, sizeof(self.outer))

    def __reduce__(self):
        raise TypeError("an Hmac cannot be pickled")

    def digest(self, bytes message not None) -> bytes:
        """32 bytes."""
        cdef bytes text = PyBytes_FromStringAndSize(<char*> self.label, self.label_size) + message
        cdef bytes digest = PyBytes_FromStringAndSize(NULL, SHA256_SIZE)
        self.finish(
            <const uint8_t*> PyBytes_AS_STRING(text),
            PyBytes_GET_SIZE(text),
            <uint8_t*> PyBytes_AS_STRING(digest),
        )
        return digest

    cdef void mac(self, const uint8_t* message, size_t size, uint8_t* digest) noexcept nogil:
        cdef uint8_t text[LABEL_MAX + MESSAGE_MAX]
        memcpy(text, self.label, self.label_size)
        memcpy(text + self.label_size, message, size)
        self.finish(text, self.label_size + size, digest)

    cdef void finish(self, const uint8_t* text, size_t size, uint8_t* digest) noexcept nogil:
        """text: label and message."""
        cdef bint is_fast = has_sha()
        sha256_end(self.inner, SHA256_BLOCK, text, size, digest, is_fast)
        sha256_end(self.outer, SHA256_BLOCK, digest, SHA256_SIZE, digest, is_fast)
