// CUDA's threads on one CPU thread, so that tests can run a kernel's own source without a GPU: every CUDA thread is a
// fiber, and fibers take turns at each barrier and shuffle; from the last to the first where the environment has
// EMULATOR_REVERSED.
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>
#include <algorithm>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define __builtin_assume(condition)
#define DYNAMIC_SHARED(name) char* const name = emulator::dynamic_shared.data()

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim;
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
using std::min;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline unsigned round_to_bf16(float low, float high) {
    unsigned bits[2];
    std::memcpy(&bits[0], &low, 4), std::memcpy(&bits[1], &high, 4);
    for (unsigned& x : bits) x += 0x7fff + (x >> 16 & 1);
    return bits[0] >> 16 | (bits[1] & 0xffff0000u);
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float reciprocal_fast(float x) { return 1 / x; }
template <typename T>
inline void copy_later(T& to, const T& from) { to = from; }
inline void wait_for_copies() {}

namespace emulator {
static std::vector<char> dynamic_shared;

struct Barrier {
    int waiting = 0, passed = 0;
};
static ucontext_t scheduler;
static std::vector<ucontext_t> fibers;
static std::vector<std::vector<char>> stacks;
static std::vector<bool> finished;
static std::vector<Barrier> warp_barriers;
static std::vector<float> exchanged;
static Barrier block_barrier;
static std::function<void()> kernel;
static int current;

inline void wait(Barrier& barrier, int count) {
    const int round = barrier.passed;
    if (++barrier.waiting == count) {
        barrier.waiting = 0;
        barrier.passed++;
        return;
    }
    while (barrier.passed == round) swapcontext(&fibers[current], &scheduler);
}
inline void start() {
    kernel();
    finished[current] = true;
    swapcontext(&fibers[current], &scheduler);
}
inline void launch(Index grid, int threads, size_t shared, std::function<void()> body) {
    const bool reversed = std::getenv("EMULATOR_REVERSED");
    kernel = body;
    gridDim = grid;
    dynamic_shared.resize(shared);
    stacks.resize(threads, std::vector<char>(1 << 16));
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                fibers.assign(threads, {});
                finished.assign(threads, false);
                warp_barriers.assign(threads / 32, {});
                exchanged.assign(threads, 0);
                block_barrier = {};
                for (int i = 0; i < threads; i++) {
                    getcontext(&fibers[i]);
                    fibers[i].uc_stack.ss_sp = stacks[i].data();
                    fibers[i].uc_stack.ss_size = stacks[i].size();
                    makecontext(&fibers[i], start, 0);
                }
                for (int left = threads; left > 0;)
                    for (int turn = 0; turn < threads; turn++) {
                        const int i = reversed ? threads - 1 - turn : turn;
                        if (finished[i]) continue;
                        current = i;
                        threadIdx = {static_cast<unsigned>(i), 0, 0};
                        swapcontext(&scheduler, &fibers[i]);
                        if (finished[i]) left--;
                    }
            }
}
}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block_barrier, static_cast<int>(emulator::fibers.size())); }
inline void __syncwarp() { emulator::wait(emulator::warp_barriers[threadIdx.x / 32], 32); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
    emulator::exchanged[threadIdx.x] = value;
    __syncwarp();
    const float received = emulator::exchanged[threadIdx.x ^ mask];
    __syncwarp();
    return received;
}
