// CUDA's threads on one CPU thread, so that tests can run a kernel's own source without a GPU: every CUDA thread is a
// fiber, and fibers take turns at each barrier and shuffle; from the last to the first where the environment has
// EMULATOR_REVERSED.
#undef _FORTIFY_SOURCE  // whose longjmp takes no other stack
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __restrict__
#define __builtin_assume(condition)
#define DYNAMIC_SHARED(Type)                                      \
    static char* const& shared_memory = emulator::dynamic_shared; \
    extern "C" unsigned shared_bytes = sizeof(Type)

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
template <typename T>
T max(T a, T b) { return a < b ? b : a; }
template <typename T>
T min(T a, T b) { return b < a ? b : a; }
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
inline unsigned add_bf16(unsigned x, unsigned y) {
    const auto sum = [&](int shift) { return __uint_as_float(x << shift & 0xffff0000u) + __uint_as_float(y << shift & 0xffff0000u); };
    return round_to_bf16(sum(16), sum(0));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned byte = selector >> 4 * i & 7;
        result |= ((byte < 4 ? x : y) >> byte % 4 * 8 & 0xff) << 8 * i;
    }
    return result;
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float reciprocal_fast(float x) { return 1 / x; }
template <typename T>
inline void copy_later(T& to, const T& from) { to = from; }
inline void wait_for_copies() {}

namespace emulator {

static std::vector<char> memory;
static char* dynamic_shared;

struct Barrier {
    int waiting = 0, passed = 0;
};
struct Fiber {
    ucontext_t entry;
    jmp_buf place;  // in its second turn and later, since swapcontext asks the system for signals each time
    bool begun = false, finished = false;
};
static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::vector<std::vector<char>> stacks;
static std::vector<Barrier> warp_barriers;
static std::vector<unsigned> exchanged;
static Barrier block_barrier;
static void (*kernel)(void**);
static void** arguments;
static int current;

inline void wait(Barrier& barrier, int count) {
    const int round = barrier.passed;
    if (++barrier.waiting == count) {
        barrier.waiting = 0;
        barrier.passed++;
        return;
    }
    while (barrier.passed == round)
        if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}
inline void start() {
    kernel(arguments);
    fibers[current].finished = true;
    _longjmp(scheduler, 1);
}
inline void resume(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.entry);
}
inline void launch(Index grid, int threads, size_t shared, void (*body)(void**), void** values) {
    const bool reversed = std::getenv("EMULATOR_REVERSED");
    kernel = body;
    arguments = values;
    gridDim = grid;
    memory.resize(shared);
    dynamic_shared = memory.data();
    stacks.resize(threads, std::vector<char>(1 << 16));
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                fibers.assign(threads, {});
                warp_barriers.assign(threads / 32, {});
                exchanged.assign(threads, 0);
                block_barrier = {};
                for (int i = 0; i < threads; i++) {
                    getcontext(&fibers[i].entry);
                    fibers[i].entry.uc_stack.ss_sp = stacks[i].data();
                    fibers[i].entry.uc_stack.ss_size = stacks[i].size();
                    makecontext(&fibers[i].entry, start, 0);
                }
                for (int left = threads; left > 0;)
                    for (int turn = 0; turn < threads; turn++) {
                        const int i = reversed ? threads - 1 - turn : turn;
                        if (fibers[i].finished) continue;
                        current = i;
                        threadIdx = {static_cast<unsigned>(i), 0, 0};
                        resume(fibers[i]);
                        if (fibers[i].finished) left--;
                    }
            }
}
}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block_barrier, static_cast<int>(emulator::fibers.size())); }
inline void __syncwarp() { emulator::wait(emulator::warp_barriers[threadIdx.x / 32], 32); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    std::memcpy(&emulator::exchanged[threadIdx.x], &value, 4);
    __syncwarp();
    T received;
    std::memcpy(&received, &emulator::exchanged[threadIdx.x ^ mask], 4);
    __syncwarp();
    return received;
}
