// The four-direction selective scan of maps (SS2D): what its forward and backward kernels share.
//
// One thread walks a stretch of every sequence, of CHANNELS channels and a share of their 16 states, which stay in
// registers; PARTS neighbouring threads share the channels. One launch after another walks the sequences to their end:
// there is no scan tree, every sum has one fixed order, and what has a row for each step lives for a stretch only. Maps
// are read in their own layout, pixel by pixel, whatever the direction.
//
// Steps: `all` of a walk, of which a launch takes as many as `here` from `first` on. `order` (K, all) has their pixels, -1
// where there is none: such steps fill walks up to halves of whole chunks, and change nothing.
//
// Sums of directions: a direction and its reverse meet in one map, rows' and columns' apart. Who comes second to a
// pixel is in the second half of its walk, and adds.
//
// Shapes, channels last, L = H W pixels in row-major order, k the direction:
//   x, dy, rows, columns (T, B, L, E); bc (T, B, L, K, 2 N), B before C, with bc_stride from pixel to pixel;
//   dt (T, K, B, here, E), in the order of the walk;
//   A2 (T, K, E, N), A2 = A log2 e; bias, D (T, K, E); carry (T, K, B, E, N), from stretch to stretch;
//   states (T, K, B, chunks, E, N): those before every STRIDE-th step. E is a multiple of 4. A plain scan has one
//   direction.
//
// Given at compile time: REAL (float or bf16), DIRECTIONS (K: 4 or 1), CHANNELS (1 or 2), PARTS (2 to 8), THREADS,
// STRIDE. Outside CUDA, the names that CUDA defines must have been defined before: tests run these files on a CPU so.

#ifdef __CUDACC__
// A block's dynamic shared memory, and how much of it a launch asks for.
#define DYNAMIC_SHARED(Type)                \
    extern __shared__ char shared_memory[]; \
    extern "C" __device__ unsigned shared_bytes = sizeof(Type)
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ unsigned round_to_bf16(float low, float high) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
__device__ __forceinline__ unsigned add_bf16(unsigned x, unsigned y) {  // both halves
    unsigned sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(0x3f803f80u), "r"(y));
    return sum;
}
// A copy to shared memory that needs no register and is waited for by its own thread.
template <typename T>
__device__ __forceinline__ void copy_later(T& to, const T& from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(&to))),
                 "l"(__cvta_generic_to_global(&from)), "n"(sizeof(T))
                 : "memory");
}
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif

constexpr int N = 16;
constexpr int STATES = N / PARTS;               // of a thread, for each of its channels
constexpr int GROUPS = THREADS / PARTS;         // of CHANNELS channels
constexpr int WIDTH = GROUPS * CHANNELS;        // channels of a block
constexpr int QUADS = WIDTH / 4;                // neighbouring channels travel together, four by four
constexpr int ROWS = THREADS / QUADS;           // steps of which the block's threads bring a quad each
constexpr int BC_ROWS = THREADS * 4 / (2 * N);  // the same, of B and C
constexpr int BATCH = PARTS / CHANNELS;         // steps whose sums over the parts are exchanged together
constexpr unsigned ALL = 0xffffffffu;
constexpr float LN2 = 0.6931471805599453f, LOG2E = 1.4426950408889634f;

struct bf16 {
    unsigned short bits;
};

// Neighbours in memory, read one by one and written two by two.
template <int COUNT, typename T = REAL>
struct alignas(COUNT * sizeof(T)) Reals {
    float at[COUNT];
    __device__ float operator[](int i) const { return at[i]; }
    __device__ void put(int i, float x, float y) { at[i] = x, at[i + 1] = y; }
};
template <int COUNT>
struct alignas(COUNT * sizeof(bf16)) Reals<COUNT, bf16> {
    unsigned at[COUNT / 2];
    __device__ float operator[](int i) const {
        return __uint_as_float(i % 2 ? at[i / 2] & 0xffff0000u : at[i / 2] << 16);
    }
    __device__ void put(int i, float x, float y) { at[i / 2] = round_to_bf16(x, y); }
};
using Quad = Reals<4>;

// log(1 + exp(x)) without a branch: max(x, 0) + log(1 + w), w = exp(-|x|). For floats log(1 + w) = 2 artanh(s), a short
// series, since s = w / (2 + w) is at most a third; for bf16 a polynomial, 6e-5 off at most (2^-14).
__device__ __forceinline__ float softplus(float x) {
    const float w = exp2_fast(-LOG2E * fabsf(x));
    if constexpr (sizeof(REAL) == 2) {
        const float series = fmaf(fmaf(fmaf(0.04134728f, w, -0.15742719f), w, 0.30630095f), w, -0.49697782f);
        return fmaf(w, fmaf(series, w, 0.99994328f), fmaxf(x, 0.f));
    }
    const float s = w * reciprocal_fast(2 + w), q = s * s;
    float series = 0;
#pragma unroll
    for (int n = 13; n > 1; n -= 2) series = fmaf(series, q, 1.f / n);
    return fmaf(2 * s, fmaf(series, q, 1.f), fmaxf(x, 0.f));
}

// The slope of softplus where it is `value`: 1 - exp(-value), by its series where the difference would lose digits (for
// bf16 a short one, 4e-5 off at most).
__device__ __forceinline__ float softplus_slope(float value) {
    const float direct = 1 - exp2_fast(-value * LOG2E);
    if constexpr (sizeof(REAL) == 2) return value < 1 / 64.f ? value - value * value / 2 : direct;
    const float series = value * (1 - value * (1 / 2.f - value * (1 / 6.f - value * (1 / 24.f - value * (1 / 120.f)))));
    return value < 0.125f ? series : direct;
}

// A block's sequence: a task, a direction and an image; and its channels.
struct Place {
    int task, direction, image, first;          // first: the block's first channel
    int map, sequence;                          // numbers of the (task, image) and of the (task, direction, image)
    int length, channels;

    __device__ Place(int images, int length, int channels) : length(length), channels(channels) {
        first = blockIdx.x * WIDTH;
        direction = blockIdx.y % DIRECTIONS;
        image = blockIdx.y / DIRECTIONS;
        task = blockIdx.z;
        map = task * images + image;
        sequence = (task * DIRECTIONS + direction) * images + image;
    }
    // Where the block's channels of a map's or sequence's first row lie in an array (numbers, rows, E).
    __device__ size_t origin(int number, int rows) const {
        return static_cast<size_t>(number) * rows * channels + first;
    }
    __device__ size_t parameter(int c) const { return origin(task * DIRECTIONS + direction, 1) + c; }
    // Where B and C of the first pixel lie.
    __device__ size_t inputs(int stride) const {
        return static_cast<size_t>(map) * length * stride + direction * (2 * N);
    }
    // Which of all sequences' channels c is, in an array (T, K, B, E).
    __device__ size_t channel(int c) const { return origin(sequence, 1) + c; }
    // Where a channel's states before chunk `number` lie.
    __device__ size_t states(int number, int steps, int c) const {
        return (origin(sequence * (steps / STRIDE) + number, 1) + c) * N;
    }
    __device__ bool has(int c) const { return first + c < channels; }
};

// What is added to a time step before softplus, lest there be one where there is no pixel. A sum: compilers would branch
// around softplus.
__device__ __forceinline__ float stop(int pixel) { return pixel >= 0 ? 0.f : -1e30f; }

// What lies so many bytes after a place that all threads share.
template <typename T>
__device__ __forceinline__ T& at(char* base, unsigned bytes) {
    __builtin_assume(__isGlobal(base));
    return *reinterpret_cast<T*>(base + bytes);
}
template <typename T>
__device__ __forceinline__ const T& at(const char* base, unsigned bytes) {
    __builtin_assume(__isGlobal(base));
    return *reinterpret_cast<const T*>(base + bytes);
}

// Two numbers for each of the block's channels at a step. Halves of quads lie apart, and rows end in padding: neither
// the writes of quads' halves nor the reads of neighbouring channels, in two steps at once, meet in a bank.
struct Row {
    static constexpr int HALF = WIDTH / 2 + 8;
    alignas(16) float2 both[2 * HALF + 4];

    __device__ static int index(int channel) { return channel / 4 * 2 + channel % 2 + channel / 2 % 2 * HALF; }
    __device__ float4& half(int quad, int i) { return *reinterpret_cast<float4*>(&both[quad / 2 + i * HALF]); }
};

// What a thread has of its block. Pairs of groups take turns thread by thread, so that of four neighbours two share a
// part, hence B and C, and two others the channels: the shared memory serves 64-bit reads of either in one pass, not
// two. Channels are in an order that depends on the thread: what it gives away in a sum over the parts is always in slot 1.
struct Slots {
    int part, own;                              // own: the channel (within the block) of slot 0
    int index[CHANNELS];                        // of each slot's channel in a Row
    __device__ Slots() : part(threadIdx.x / 2 % PARTS) {
        own = (threadIdx.x / (2 * PARTS) * 2 + threadIdx.x % 2) * CHANNELS + part % CHANNELS;
#pragma unroll
        for (int slot = 0; slot < CHANNELS; slot++) index[slot] = Row::index(channel(slot));
    }
    __device__ int channel(int slot) const { return own ^ slot; }
};

// Add what the parts have for HALF steps and for HALF more: each keeps one half, until a single step is left. Not a loop:
// compilers would branch on `later` around the shuffles.
template <int BIT, int HALF>
__device__ __forceinline__ void halve(float (&kept)[BATCH], int part) {
    if constexpr (HALF > 0) {
        const bool later = part & BIT;
#pragma unroll
        for (int s = 0; s < HALF; s++) {
            const float mine = later ? kept[s + HALF] : kept[s], other = later ? kept[s] : kept[s + HALF];
            kept[s] = mine + __shfl_xor_sync(ALL, other, 2 * BIT);
        }
        halve<2 * BIT, HALF / 2>(kept, part);
    }
}

// Sum values[step][slot] over the parts. Each thread ends with the sum for its slot 0's channel and for step
// `own_step()` of the batch.
__device__ __forceinline__ float sum_over_parts(const float (&values)[BATCH][CHANNELS], int part) {
    float kept[BATCH];
#pragma unroll
    for (int s = 0; s < BATCH; s++) {
        kept[s] = values[s][0];
        if constexpr (CHANNELS == 2) kept[s] += __shfl_xor_sync(ALL, values[s][1], 2);
    }
    halve<CHANNELS, BATCH / 2>(kept, part);
    return kept[0];
}
__device__ __forceinline__ int own_step(int part) {  // the last bits of its number, in reverse
    int step = 0;
#pragma unroll
    for (int bit = CHANNELS, half = BATCH / 2; half > 0; bit *= 2, half /= 2) step += part / bit % 2 * half;
    return step;
}
