"""Where the modules of a symbol lie: a projective map and what the paper's bend adds to it."""

from libc.string cimport memcpy

from native.qr.finder cimport Finder
from native.qr.fit cimport Fit, Map
from native.qr.plane cimport Plane

cdef enum:
    NODES_MAX = 32              # a side of a mesh

cdef struct Mesh:               # displacements, modules, at the crossings of `count` lines each way
    int count                   # 0: none, the map alone says where modules are
    float lines[NODES_MAX]      # u or v of each line, rising
    float du[NODES_MAX * NODES_MAX]         # node (column i, row j) at j * count + i
    float dv[NODES_MAX * NODES_MAX]

cdef struct Place:
    Map map
    int dim
    int sign                    # 1 dark on light, -1 light on dark
    int aligned                 # alignment patterns found
    int alignment_count         # of the version
    int quick                   # placed by the first look at the finders alone
    int agreement               # percent of timing modules that are as they should be
    float contrast              # light - dark, grey values, positive
    Fit fit
    Mesh mesh                   # last, and its count first: see copy_place


cdef inline void copy_place(Place* target, const Place* source) noexcept nogil:
    """Copies what is in use: most places have no mesh."""
    memcpy(
        target, source,
        sizeof(Place) if source.mesh.count else sizeof(Place) - sizeof(Mesh) + sizeof(int),
    )


cdef int locate(
    const Plane* plane, const Finder* a, const Finder* b, const Finder* c, int dim, int thorough,
    int quick, Place* out,
) noexcept nogil
cdef int strayed_finder(const Place* place, float* x, float* y) noexcept nogil
cdef int locate_again(
    const Plane* plane, const Finder* a, const Finder* b, const Finder* c, int probes,
    const Place* last, Place* out,
) noexcept nogil
cdef void bend(const Mesh* mesh, float u, float v, float* du, float* dv) noexcept nogil
