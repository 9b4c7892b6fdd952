// Runs the kernels of ss2d.cu (path given as SOURCE) through the emulator; C functions for ctypes.
#include "cuda_emulator.h"
#include SOURCE

extern "C" void emulate_forward(const REAL* x, const REAL* dt, const REAL* bc, const float* A2, const float* bias,
                                const float* D, REAL* y, float* states, int tasks, int images, int height, int width,
                                int channels, Index grid) {
    emulator::launch(grid, THREADS, 0, [&] {
        ss2d_forward(x, dt, bc, A2, bias, D, y, states, tasks, images, height, width, channels);
    });
}

extern "C" void emulate_backward(const REAL* x, REAL* dt, const REAL* bc, const float* A2, const float* bias,
                                 const float* D, const float* states, const REAL* dy, REAL* dx, REAL* dbc, float* dA,
                                 float* dD, float* dbias, int tasks, int images, int height, int width, int channels,
                                 Index grid) {
    emulator::launch(grid, THREADS, sizeof(Chunk), [&] {
        ss2d_backward(x, dt, bc, A2, bias, D, states, dy, dx, dbc, dA, dD, dbias, tasks, images, height, width,
                      channels);
    });
}

extern "C" int chunk_bytes() { return static_cast<int>(sizeof(Chunk)); }
