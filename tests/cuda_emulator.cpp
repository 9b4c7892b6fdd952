// Runs a kernel of the fused scan, whose source is the file KERNEL, through the emulator; C functions for ctypes.
#include "cuda_emulator.h"
#include KERNEL

#ifdef FORWARD
extern "C" void run(const REAL* x, const REAL* dt, const REAL* bc, const float* A2, const float* bias, const float* D,
                    REAL* y, REAL* states, int tasks, int images, int height, int width, int channels, Index grid,
                    size_t shared_bytes) {
    emulator::launch(grid, THREADS, shared_bytes, [&] {
        ss2d_forward(x, dt, bc, A2, bias, D, y, states, tasks, images, height, width, channels);
    });
}
#else
extern "C" size_t chunk_bytes() { return sizeof(Chunk); }
extern "C" void run(const REAL* x, REAL* dt, const REAL* bc, const float* A2, const float* bias, const float* D,
                    const REAL* states, const REAL* dy, REAL* dx, REAL* dbc, float* dA, float* dD, float* dbias,
                    int tasks, int images, int height, int width, int channels, Index grid, size_t shared_bytes) {
    emulator::launch(grid, THREADS, shared_bytes, [&] {
        ss2d_backward(x, dt, bc, A2, bias, D, states, dy, dx, dbc, dA, dD, dbias, tasks, images, height, width,
                      channels);
    });
}
#endif
