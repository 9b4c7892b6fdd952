// The four-direction selective scan of maps (SS2D): what its forward and backward kernels share.
//
// One thread walks the whole sequence for CHANNELS channels and 4 of their 16 states, which stay in registers; four
// neighbouring threads (the "parts") share the channels. Nothing is split along the sequence, so there is no scan tree
// and every sum has one fixed order. Maps are read in their own layout, pixel by pixel, whatever the direction.
//
// Shapes, channels last, L = H W pixels in row-major order whatever the direction, k the direction:
//   x, dy (T, B, L, E); dt, y, dx: see each kernel; bc (T, B, L, K, 2 N), B before C; A2 (T, K, E, N), A2 = A log2 e;
//   bias, D (T, K, E); states (T, K, B, chunks, E, N): the states before every STRIDE-th step.
// E is a multiple of 8, so that 16 bytes never straddle two pixels. A plain scan has one direction and H = 1.
//
// Given at compile time: REAL (float or bf16), DIRECTIONS (K: 4 or 1), CHANNELS (1 or 2), THREADS, STRIDE. Outside CUDA,
// the names that CUDA defines must have been defined before: tests run these files on a CPU so.

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ char name[]
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ unsigned short round_to_bf16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

constexpr int N = 16;
constexpr int PARTS = 4;
constexpr int STATES = N / PARTS;               // of a thread, for each of its channels
constexpr int GROUPS = THREADS / PARTS;         // of CHANNELS channels
constexpr int WIDTH = GROUPS * CHANNELS;        // channels of a block
constexpr int PACK = 8;                         // neighbouring channels that travel together
constexpr int COLUMNS = WIDTH / PACK;           // packs in a row of a tile
constexpr int BATCH = PARTS / CHANNELS;         // steps whose sums over the parts are exchanged together
constexpr unsigned ALL = 0xffffffffu;
constexpr float LN2 = 0.6931471805599453f, LOG2E = 1.4426950408889634f;

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(float x, bf16& out) { out.bits = round_to_bf16(x); }

template <int COUNT>
struct alignas(COUNT * sizeof(REAL)) Reals {
    REAL at[COUNT];
};
using Pack = Reals<PACK>;

// log(1 + exp(x)), by the logarithm's series where 1 + exp(x) would lose digits.
__device__ __forceinline__ float softplus(float x) {
    const float z = exp2_fast(x * LOG2E);
    const float series = z * (1 - z * (1 / 2.f - z * (1 / 3.f - z * (1 / 4.f - z * (1 / 5.f - z * (1 / 6.f))))));
    const float direct = x > 20 ? x : log2_fast(1 + z) * LN2;
    return z < 0.125f ? series : direct;
}

// The slope of softplus where it is `value`: 1 - exp(-value), by its series where the difference would lose digits.
__device__ __forceinline__ float softplus_slope(float value) {
    const float series = value * (1 - value * (1 / 2.f - value * (1 / 6.f - value * (1 / 24.f - value * (1 / 120.f)))));
    return value < 0.125f ? series : 1 - exp2_fast(-value * LOG2E);
}

// A block's sequence: a task, a direction and an image; and its channels.
struct Place {
    int task, direction, image, first;          // first: the block's first channel
    int map, sequence;                          // numbers of the (task, image) and of the (task, direction, image)
    int length, height, width, channels;
    float per_height;

    __device__ Place(int images, int height, int width, int channels)
        : length(height * width), height(height), width(width), channels(channels), per_height(1.f / height) {
        first = blockIdx.x * WIDTH;
        direction = blockIdx.y % DIRECTIONS;
        image = blockIdx.y / DIRECTIONS;
        task = blockIdx.z;
        map = task * images + image;
        sequence = (task * DIRECTIONS + direction) * images + image;
    }
    // The pixel that step l visits. The quotient is exact below 2^22 pixels.
    __device__ int pixel(int l) const {
        if (direction >= 2) l = length - 1 - l;
        if (direction & 1) {
            const int column = static_cast<int>((l + 0.5f) * per_height);
            return (l - column * height) * width + column;
        }
        return l;
    }
    // Where the block's channels of a map's or sequence's first pixel lie in an array (numbers, L, E).
    __device__ size_t origin(int number) const { return static_cast<size_t>(number) * length * channels + first; }
    __device__ size_t parameter(int c) const {
        return static_cast<size_t>(task * DIRECTIONS + direction) * channels + first + c;
    }
    // Where B and C of a pixel lie.
    __device__ size_t inputs(int pixel) const {
        return ((static_cast<size_t>(map) * length + pixel) * DIRECTIONS + direction) * (2 * N);
    }
    __device__ bool has(int c) const { return first + c < channels; }
};

// Channel (within the block) of a thread's slots. Two channels sit in an order that depends on the thread, so that what
// a thread gives away in a sum over the parts is always in slot 1.
struct Slots {
    int part, group;
    __device__ Slots() : part(threadIdx.x % PARTS), group(threadIdx.x / PARTS) {}
    __device__ int channel(int slot) const { return group * CHANNELS + (CHANNELS == 2 ? slot ^ (part & 1) : 0); }
};

// Sum values[step][slot] over the four parts. Each thread ends with the sum for its slot 0's channel and for step
// `own_step()` of the batch.
__device__ __forceinline__ float sum_over_parts(float (&values)[BATCH][CHANNELS], int part) {
    float kept[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if constexpr (CHANNELS == 2) {
            kept[i] = values[i][0] + __shfl_xor_sync(ALL, values[i][CHANNELS - 1], 1);
        } else {
            const float early = values[i][0], late = values[BATCH / 2 + i][0];
            kept[i] = (part & 1 ? late : early) + __shfl_xor_sync(ALL, part & 1 ? early : late, 1);
        }
    }
    return (part & 2 ? kept[1] : kept[0]) + __shfl_xor_sync(ALL, part & 2 ? kept[0] : kept[1], 2);
}
__device__ __forceinline__ int own_step(int part) { return CHANNELS == 2 ? part / 2 : (part & 1) * 2 + part / 2; }
