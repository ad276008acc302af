"""HMAC-SHA-256 (RFC 2104) of short messages under one key and label, or under several in turn.

The two states behind the key's blocks are made once, so that a message of up to 23 bytes behind a
label of 32 costs two compressions. They are as good as the key: they stay in this object, and are
overwritten with it.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from native.checks cimport check_int
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

cdef enum:
    FIELD_SIZE = 16            # of a person key


cdef class Hmac:
    """key: up to 64 bytes. label: up to 32 bytes that stand before every message.

    Immutable. Raises ValueError for a longer key or label, and for an empty key.
    """

    def __cinit__(self, bytes key not None, bytes label not None = b""):
        cdef uint8_t block[SHA256_BLOCK]
        cdef size_t size = PyBytes_GET_SIZE(key)
        cdef size_t i
        cdef Step* step = &self.steps[0]
        if not 1 <= size <= SHA256_BLOCK:
            raise ValueError("a key has 1 to 64 bytes")
        if PyBytes_GET_SIZE(label) > LABEL_MAX:
            raise ValueError("a label has at most 32 bytes")
        self.count = 1
        step.label_size = PyBytes_GET_SIZE(label)
        memcpy(step.label, PyBytes_AS_STRING(label), step.label_size)
        memset(block, 0, SHA256_BLOCK)
        memcpy(block, PyBytes_AS_STRING(key), size)
        for i in range(<size_t> SHA256_BLOCK):
            block[i] ^= 0x36
        sha256_begin(step.inner)
        sha256_blocks(step.inner, block, 1, has_sha())
        for i in range(<size_t> SHA256_BLOCK):
            block[i] ^= 0x36 ^ 0x5C
        sha256_begin(step.outer)
        sha256_blocks(step.outer, block, 1, has_sha())
        wipe(block, SHA256_BLOCK)

    def __dealloc__(self):
        wipe(self.steps, sizeof(self.steps))

    def __reduce__(self):
        raise TypeError("an Hmac cannot be pickled")

    def then(self, Hmac following not None, kept) -> Hmac:
        """A MAC whose digest is that of `following` over the first `kept` bytes of ours.

        Every step of both keeps as many. Raises ValueError for more than 16 steps or 32 bytes.
        """
        cdef size_t taken = <size_t> check_int(kept, 1, SHA256_SIZE, "kept")
        cdef Hmac made
        if self.count + following.count > STEPS_MAX:
            raise ValueError("a MAC has at most 16 steps")
        if (self.count > 1 and self.kept != taken) or (
            following.count > 1 and following.kept != taken
        ):
            raise ValueError("every step keeps as many bytes")
        made = Hmac(b"none")
        memcpy(made.steps, self.steps, self.count * sizeof(Step))
        memcpy(&made.steps[self.count], following.steps, following.count * sizeof(Step))
        made.count = self.count + following.count
        made.kept = taken
        return made

    def digest(self, bytes message not None) -> bytes:
        """32 bytes."""
        cdef Step* step = &self.steps[0]
        cdef bytes text = PyBytes_FromStringAndSize(<char*> step.label, step.label_size) + message
        cdef bytes digest = PyBytes_FromStringAndSize(NULL, SHA256_SIZE)
        cdef uint8_t* made = <uint8_t*> PyBytes_AS_STRING(digest)
        finish(step, <const uint8_t*> PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), made)
        self.go_on(made)
        return digest

    def renew(self, rows, stride) -> None:
        """Writes over the first 16 bytes of each row those of their MAC, but for zeros alone.

        rows: a buffer that can be written to, of rows of `stride` bytes. Raises ValueError for a
        broken size.
        """
        cdef size_t step = <size_t> check_int(stride, FIELD_SIZE, 1 << 20, "stride")
        cdef Py_buffer view
        cdef uint8_t* at
        cdef size_t count
        PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE)
        try:
            count = <size_t> view.len // step
            if count * step != <size_t> view.len:
                raise ValueError("rows has a broken size")
            at = <uint8_t*> view.buf
            with nogil:
                self.renew_rows(at, count, step)
        finally:
            PyBuffer_Release(&view)

    cdef void renew_rows(self, uint8_t* at, size_t count, size_t stride) noexcept nogil:
        cdef uint8_t digest[SHA256_SIZE]
        cdef uint8_t zeros[FIELD_SIZE]
        cdef const uint8_t* end = at + count * stride
        memset(zeros, 0, FIELD_SIZE)
        while at != end:
            if memcmp(at, zeros, FIELD_SIZE) != 0:
                self.mac(at, FIELD_SIZE, digest)
                memcpy(at, digest, FIELD_SIZE)
            at += stride

    cdef void mac(self, const uint8_t* message, size_t size, uint8_t* digest) noexcept nogil:
        apply(&self.steps[0], message, size, digest)
        self.go_on(digest)

    cdef void go_on(self, uint8_t* digest) noexcept nogil:
        """The steps behind the first."""
        cdef size_t i
        for i in range(1, self.count):
            apply(&self.steps[i], digest, self.kept, digest)


cdef void apply(
    const Step* step, const uint8_t* message, size_t size, uint8_t* digest
) noexcept nogil:
    cdef uint8_t text[LABEL_MAX + MESSAGE_MAX]
    memcpy(text, step.label, step.label_size)
    memcpy(text + step.label_size, message, size)
    finish(step, text, step.label_size + size, digest)


cdef void finish(
    const Step* step, const uint8_t* text, size_t size, uint8_t* digest
) noexcept nogil:
    """text: label and message."""
    cdef bint is_fast = has_sha()
    sha256_end(step.inner, SHA256_BLOCK, text, size, digest, is_fast)
    sha256_end(step.outer, SHA256_BLOCK, digest, SHA256_SIZE, digest, is_fast)
