// Runs a kernel of the fused scan, whose source is the file KERNEL, through the emulator; C functions for ctypes.
#include "cuda_emulator.h"
#include KERNEL

#if defined(ss2d_forward_cu)
extern "C" void run(const REAL* x, const REAL* dt, const REAL* bc, const float* A2, const float* bias, const float* D,
                    REAL* y, REAL* states, int bc_stride, int tasks, int images, int height, int width, int channels,
                    Index grid, size_t shared_bytes) {
    emulator::launch(grid, THREADS, shared_bytes, [&] {
        ss2d_forward(x, dt, bc, A2, bias, D, y, states, bc_stride, tasks, images, height, width, channels);
    });
}
#elif defined(ss2d_backward_cu)
extern "C" size_t chunk_bytes() { return sizeof(Chunk); }
extern "C" void run(const REAL* x, REAL* dt, const REAL* bc, const float* A2, const float* bias, const float* D,
                    const REAL* states, const REAL* dy, REAL* dx, REAL* dbc, float* dA, float* dD, float* dbias,
                    int bc_stride, int tasks, int images, int height, int width, int channels, Index grid,
                    size_t shared_bytes) {
    emulator::launch(grid, THREADS, shared_bytes, [&] {
        ss2d_backward(x, dt, bc, A2, bias, D, states, dy, dx, dbc, dA, dD, dbias, bc_stride, tasks, images, height,
                      width, channels);
    });
}
#else
extern "C" void run(const REAL* parts, REAL* out, int count, int rows, int columns, int stride, Index grid,
                    size_t shared_bytes) {
    emulator::launch(grid, THREADS, shared_bytes, [&] { sum_parts(parts, out, count, rows, columns, stride); });
}
#endif
