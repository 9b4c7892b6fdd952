// The four-direction selective scan of maps (SS2D), forward and backward.
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
// Given at compile time: REAL (float or bf16), DIRECTIONS (K: 4 or 1), CHANNELS (1 or 2), THREADS, STRIDE. Outside CUDA, the names that CUDA
// defines must have been defined before: tests run this file on a CPU so.

#ifdef __CUDACC__
#define DYNAMIC_SHARED(name) extern __shared__ char name[]
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
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
constexpr int WARPS = THREADS / 32;
constexpr int PACK = 8;                         // neighbouring channels that travel together
constexpr int COLUMNS = WIDTH / PACK;           // packs in a row of a tile
constexpr int TILE = THREADS / COLUMNS;         // steps of a forward tile: one pack for each thread
constexpr int BATCH = PARTS / CHANNELS;         // steps whose sums over the parts are exchanged together
constexpr int SUB = 4;                          // steps whose states and decays the backward pass keeps in registers
constexpr unsigned ALL = 0xffffffffu;
constexpr float LN2 = 0.6931471805599453f;

struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ __forceinline__ void narrow(float x, float& out) { out = x; }
__device__ __forceinline__ void narrow(float x, bf16& out) { out.bits = round_to_bf16(x); }

struct alignas(16) Pack {
    REAL at[PACK];
};

// The pixel that step l of direction k visits.
__device__ __forceinline__ int pixel(int k, int l, int height, int width) {
    if (k >= 2) l = height * width - 1 - l;
    if (k & 1) {
        const int column = l / height;
        return (l - column * height) * width + column;
    }
    return l;
}

__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// The slope of softplus where it is `value`: 1 - exp(-value), by its series where the difference would lose digits.
__device__ __forceinline__ float softplus_slope(float value) {
    const float series = value * (1 - value * (0.5f - value * (1.0f / 6 - value * (1.0f / 24 - value * (1.0f / 120)))));
    return value < 0.125f ? series : 1 - exp2_fast(-value / LN2);
}

// A block's sequence: a task, a direction and an image; and its channels.
struct Place {
    int task, direction, image, first;          // first: the block's first channel
    size_t map, sequence;                       // numbers of the (task, image) and of the (task, direction, image)
    int length, height, width, channels;

    __device__ Place(int images, int height, int width, int channels)
        : length(height * width), height(height), width(width), channels(channels) {
        first = blockIdx.x * WIDTH;
        direction = blockIdx.y % DIRECTIONS;
        image = blockIdx.y / DIRECTIONS;
        task = blockIdx.z;
        map = static_cast<size_t>(task) * images + image;
        sequence = (static_cast<size_t>(task) * DIRECTIONS + direction) * images + image;
    }
    // Where the block's channel c at step l lies in an array (numbers of maps or sequences, L, E).
    __device__ size_t at(size_t number, int l, int c) const {
        return (number * length + pixel(direction, l, height, width)) * channels + first + c;
    }
    __device__ size_t parameter(int c) const {
        return (static_cast<size_t>(task) * DIRECTIONS + direction) * channels + first + c;
    }
};

// Channel (within the block) and first state of a thread's slots. Two channels sit in an order that depends on the
// thread, so that what a thread gives away in a sum over the parts is always in slot 1.
struct Slots {
    int part, group;
    __device__ Slots() : part(threadIdx.x % PARTS), group(threadIdx.x / PARTS) {}
    __device__ int channel(int slot) const { return group * CHANNELS + (CHANNELS == 2 ? slot ^ (part & 1) : 0); }
};

// Sum values[step][slot] over the four parts. Each thread ends with the sum for its slot 0's channel and for step
// `own_step()` of the batch.
__device__ __forceinline__ float sum_over_parts(float (&values)[BATCH][CHANNELS], int part) {
    float kept[2];
    if constexpr (CHANNELS == 2) {
        kept[0] = values[0][0] + __shfl_xor_sync(ALL, values[0][CHANNELS - 1], 1);
        kept[1] = values[1][0] + __shfl_xor_sync(ALL, values[1][CHANNELS - 1], 1);
    } else {
        const bool odd = part & 1;
        for (int i = 0; i < 2; i++) {
            const float mine = odd ? values[BATCH / 2 + i][0] : values[i][0];
            const float theirs = odd ? values[i][0] : values[BATCH / 2 + i][0];
            kept[i] = mine + __shfl_xor_sync(ALL, theirs, 1);
        }
    }
    const bool second = part & 2;
    return (second ? kept[1] : kept[0]) + __shfl_xor_sync(ALL, second ? kept[0] : kept[1], 2);
}
__device__ __forceinline__ int own_step(int part) { return CHANNELS == 2 ? part / 2 : (part & 1) * 2 + part / 2; }

constexpr int Y_ROW = WIDTH + 8 * CHANNELS;     // rows of y are padded against bank conflicts

// y (K, T, B, L, E): each direction's own result. dt (T, K, B, L, E): time steps before bias and softplus.
extern "C" __global__ void __launch_bounds__(THREADS) ss2d_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ dt, const REAL* __restrict__ bc,
    const float* __restrict__ A2, const float* __restrict__ bias, const float* __restrict__ D,
    REAL* __restrict__ y, float* __restrict__ states, int tasks, int images, int height, int width, int channels) {
    __shared__ float2 steps[TILE][WIDTH];       // delta, delta x
    alignas(16) __shared__ float inputs[TILE][2 * N];
    alignas(16) __shared__ float outputs[TILE][Y_ROW];
    const Place place(images, height, width, channels);
    const Slots slots;
    const int row = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS * PACK;
    const bool inside = place.first + column < channels;
    const size_t result = (static_cast<size_t>(place.direction) * tasks + place.task) * images + place.image;
    const int chunks = (place.length + STRIDE - 1) / STRIDE;

    float rate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const bool real = place.first + slots.channel(c) < channels;
            rate[c][i] = real ? A2[place.parameter(slots.channel(c)) * N + slots.part * STATES + i] : 0;
            h[c][i] = 0;
        }
    float offset[PACK], skip[PACK];
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        offset[i] = inside ? bias[place.parameter(column + i)] : 0;
        skip[i] = inside ? D[place.parameter(column + i)] : 0;
    }

    // B and C of a step are 2 N numbers, COLUMNS of these threads at a row: each brings 2 N / COLUMNS of them.
    constexpr int SHARE = 2 * N / COLUMNS;
    struct alignas(SHARE * sizeof(REAL)) Share {
        REAL at[SHARE];
    } next_bc = {};
    Pack next_x = {}, next_dt = {};
    const auto fetch = [&](int l) {
        if (l >= place.length) return;
        if (inside) {
            next_x = *reinterpret_cast<const Pack*>(x + place.at(place.map, l, column));
            next_dt = *reinterpret_cast<const Pack*>(dt + place.at(place.sequence, l, column));
        }
        const size_t at = place.map * place.length + pixel(place.direction, l, height, width);
        next_bc = *reinterpret_cast<const Share*>(
            bc + (at * DIRECTIONS + place.direction) * (2 * N) + threadIdx.x % COLUMNS * SHARE);
    };
    fetch(row);
    for (int start = 0; start < place.length; start += TILE) {
        const int l = start + row;
        const Pack here = next_x;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const float delta = l < place.length ? softplus(wide(next_dt.at[i]) + offset[i]) : 0;
            steps[row][column + i] = make_float2(delta, delta * wide(here.at[i]));
        }
#pragma unroll
        for (int i = 0; i < SHARE; i++) inputs[row][threadIdx.x % COLUMNS * SHARE + i] = wide(next_bc.at[i]);
        __syncthreads();
        fetch(l + TILE);
        if (states != nullptr && start % STRIDE == 0) {
            const size_t chunk = place.sequence * chunks + start / STRIDE;
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
                if (place.first + slots.channel(c) < channels)
                    *reinterpret_cast<float4*>(
                        states + (chunk * channels + place.first + slots.channel(c)) * N + slots.part * STATES) =
                        make_float4(h[c][0], h[c][1], h[c][2], h[c][3]);
        }
#pragma unroll 2
        for (int batch = 0; batch < TILE; batch += BATCH) {
            float sums[BATCH][CHANNELS];
#pragma unroll
            for (int s = 0; s < BATCH; s++) {
                const float4 b = *reinterpret_cast<const float4*>(&inputs[batch + s][slots.part * STATES]);
                const float4 c_ = *reinterpret_cast<const float4*>(&inputs[batch + s][N + slots.part * STATES]);
                const float in[STATES] = {b.x, b.y, b.z, b.w}, out[STATES] = {c_.x, c_.y, c_.z, c_.w};
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    const float2 step = steps[batch + s][slots.channel(c)];
                    float sum = 0;
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        h[c][i] = fmaf(exp2_fast(step.x * rate[c][i]), h[c][i], step.y * in[i]);
                        sum = fmaf(h[c][i], out[i], sum);
                    }
                    sums[s][c] = sum;
                }
            }
            outputs[batch + own_step(slots.part)][slots.channel(0)] = sum_over_parts(sums, slots.part);
        }
        __syncthreads();
        if (l < place.length && inside) {
            Pack pack;
#pragma unroll
            for (int i = 0; i < PACK; i++)
                narrow(fmaf(skip[i], wide(here.at[i]), outputs[row][column + i]), pack.at[i]);
            *reinterpret_cast<Pack*>(y + place.at(result, l, column)) = pack;
        }
    }
}

// Memory of a backward block: one chunk of STRIDE steps. `kept` holds the states before each SUB steps, and, once those
// have been taken up, the sums over a warp's channels of what the steps give to B and C.
struct Chunk {
    float delta[STRIDE][WIDTH];                 // becomes the gradient of dt
    REAL x[STRIDE][WIDTH];                      // becomes the gradient of x
    REAL dy[STRIDE][WIDTH];
    alignas(16) float inputs[STRIDE][2 * N];
    alignas(16) float kept[STRIDE / SUB][CHANNELS][THREADS][STATES];
};
static_assert(SUB * 2 * N <= 32 * STATES, "a warp's sums must fit where its own states were");

// dt (T, K, B, L, E) is overwritten with its gradient; dx (K, T, B, L, E); dbc (T, B, L, K, blocks, 2 N), blocks along
// E; dA (T, K, B, E, N), with respect to A; dD, dbias (T, K, B, E).
extern "C" __global__ void __launch_bounds__(THREADS) ss2d_backward(
    const REAL* __restrict__ x, REAL* dt, const REAL* __restrict__ bc, const float* __restrict__ A2,
    const float* __restrict__ bias, const float* __restrict__ D, const float* __restrict__ states,
    const REAL* __restrict__ dy, REAL* __restrict__ dx, REAL* __restrict__ dbc, float* __restrict__ dA,
    float* __restrict__ dD, float* __restrict__ dbias, int tasks, int images, int height, int width, int channels) {
    DYNAMIC_SHARED(memory);
    Chunk& chunk = *reinterpret_cast<Chunk*>(memory);
    const Place place(images, height, width, channels);
    const Slots slots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int bit0 = lane >> 2 & 1, bit1 = lane >> 3 & 1, bit2 = lane >> 4 & 1;  // of the group within the warp
    const size_t result = (static_cast<size_t>(place.direction) * tasks + place.task) * images + place.image;
    const int chunks = (place.length + STRIDE - 1) / STRIDE;
    // The order of a thread's states depends on bit2: what it gives away first is always in slots 2 and 3.
    const int low = slots.part * STATES + 2 * bit2, high = slots.part * STATES + 2 * (1 - bit2);
    const auto state = [&](int i) { return i < 2 ? low + i : high + i - 2; };

    float rate[CHANNELS][STATES], carry[CHANNELS][STATES], drate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const bool real = place.first + slots.channel(c) < channels;
            rate[c][i] = real ? A2[place.parameter(slots.channel(c)) * N + state(i)] : 0;
            carry[c][i] = drate[c][i] = 0;
        }
    const bool own = place.first + slots.channel(0) < channels;
    const float skip = own ? D[place.parameter(slots.channel(0))] : 0;
    float dskip = 0, doffset = 0;

    const auto read = [&](const float* row, float (&out)[STATES]) {
        const float2 a = *reinterpret_cast<const float2*>(row + low), b = *reinterpret_cast<const float2*>(row + high);
        out[0] = a.x, out[1] = a.y, out[2] = b.x, out[3] = b.y;
    };

    for (int number = chunks - 1; number >= 0; number--) {
        const int start = number * STRIDE;
        __syncthreads();
        for (int i = threadIdx.x; i < STRIDE * COLUMNS; i += THREADS) {
            const int row = i / COLUMNS, column = i % COLUMNS * PACK, l = start + row;
            const bool real = l < place.length && place.first + column < channels;
            Pack px = {}, pdt = {}, pdy = {};
            if (real) {
                px = *reinterpret_cast<const Pack*>(x + place.at(place.map, l, column));
                pdt = *reinterpret_cast<const Pack*>(dt + place.at(place.sequence, l, column));
                pdy = *reinterpret_cast<const Pack*>(dy + place.at(place.map, l, column));
            }
            *reinterpret_cast<Pack*>(&chunk.x[row][column]) = px;
            *reinterpret_cast<Pack*>(&chunk.dy[row][column]) = pdy;
#pragma unroll
            for (int j = 0; j < PACK; j++)
                chunk.delta[row][column + j] =
                    real ? softplus(wide(pdt.at[j]) + bias[place.parameter(column + j)]) : 0;
        }
        for (int i = threadIdx.x; i < STRIDE * (2 * N / PACK); i += THREADS) {
            const int row = i / (2 * N / PACK), column = i % (2 * N / PACK) * PACK, l = start + row;
            Pack pack = {};
            if (l < place.length) {
                const size_t at = place.map * place.length + pixel(place.direction, l, height, width);
                pack = *reinterpret_cast<const Pack*>(bc + (at * DIRECTIONS + place.direction) * (2 * N) + column);
            }
#pragma unroll
            for (int j = 0; j < PACK; j++) chunk.inputs[row][column + j] = wide(pack.at[j]);
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            const size_t at = (place.sequence * chunks + number) * channels + place.first + slots.channel(c);
            if (place.first + slots.channel(c) < channels)
                read(states + at * N, h[c]);
            else
                h[c][0] = h[c][1] = h[c][2] = h[c][3] = 0;
        }
        __syncthreads();

        for (int sub = 0; sub < STRIDE / SUB - 1; sub++) {
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
                *reinterpret_cast<float4*>(chunk.kept[sub][c][threadIdx.x]) =
                    make_float4(h[c][0], h[c][1], h[c][2], h[c][3]);
#pragma unroll
            for (int s = 0; s < SUB; s++) {
                float in[STATES];
                read(chunk.inputs[sub * SUB + s], in);
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    const float delta = chunk.delta[sub * SUB + s][slots.channel(c)];
                    const float input = delta * wide(chunk.x[sub * SUB + s][slots.channel(c)]);
#pragma unroll
                    for (int i = 0; i < STATES; i++)
                        h[c][i] = fmaf(exp2_fast(delta * rate[c][i]), h[c][i], input * in[i]);
                }
            }
        }

        for (int sub = STRIDE / SUB - 1; sub >= 0; sub--) {
            if (sub < STRIDE / SUB - 1)
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    const float4 kept = *reinterpret_cast<const float4*>(chunk.kept[sub][c][threadIdx.x]);
                    h[c][0] = kept.x, h[c][1] = kept.y, h[c][2] = kept.z, h[c][3] = kept.w;
                }
            __syncwarp();
            float* const sums = chunk.kept[sub][0][0] + warp * (SUB * 2 * N);  // this warp's
            float before[SUB][CHANNELS][STATES], decay[SUB][CHANNELS][STATES];
#pragma unroll
            for (int s = 0; s < SUB; s++) {
                float in[STATES];
                read(chunk.inputs[sub * SUB + s], in);
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    const float delta = chunk.delta[sub * SUB + s][slots.channel(c)];
                    const float input = delta * wide(chunk.x[sub * SUB + s][slots.channel(c)]);
#pragma unroll
                    for (int i = 0; i < STATES; i++) {
                        before[s][c][i] = h[c][i];
                        decay[s][c][i] = exp2_fast(delta * rate[c][i]);
                        h[c][i] = fmaf(decay[s][c][i], h[c][i], input * in[i]);
                    }
                }
            }
#pragma unroll
            for (int batch = SUB - BATCH; batch >= 0; batch -= BATCH) {
                float dinput[BATCH][CHANNELS], dexponent[BATCH][CHANNELS];
#pragma unroll
                for (int q = BATCH - 1; q >= 0; q--) {
                    const int s = batch + q, l = sub * SUB + s;
                    float in[STATES], out[STATES], din[STATES] = {}, dout[STATES] = {};
                    read(chunk.inputs[l], in);
                    read(chunk.inputs[l] + N, out);
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        const float delta = chunk.delta[l][slots.channel(c)];
                        const float input = delta * wide(chunk.x[l][slots.channel(c)]);
                        const float grad = wide(chunk.dy[l][slots.channel(c)]);
                        float to_input = 0, to_exponent = 0;
#pragma unroll
                        for (int i = 0; i < STATES; i++) {
                            const float dh = fmaf(out[i], grad, carry[c][i]);
                            const float after = s + 1 < SUB ? before[s + 1 < SUB ? s + 1 : s][c][i] : h[c][i];
                            dout[i] = fmaf(after, grad, dout[i]);
                            din[i] = fmaf(dh, input, din[i]);
                            to_input = fmaf(dh, in[i], to_input);
                            carry[c][i] = dh * decay[s][c][i];
                            const float inner = carry[c][i] * before[s][c][i];
                            drate[c][i] = fmaf(inner, delta, drate[c][i]);
                            to_exponent = fmaf(inner, rate[c][i], to_exponent);
                        }
                        dinput[q][c] = to_input, dexponent[q][c] = to_exponent;
                    }
                    // Sum what B and C get over the warp's eight groups; each lane ends with one of the 2 N sums.
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        din[i] += __shfl_xor_sync(ALL, din[i + 2], 16);
                        dout[i] += __shfl_xor_sync(ALL, dout[i + 2], 16);
                    }
                    float pair[2];
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        pair[i] = (bit1 ? dout[i] : din[i]) + __shfl_xor_sync(ALL, bit1 ? din[i] : dout[i], 8);
                    const float sum =
                        (bit0 ? pair[1] : pair[0]) + __shfl_xor_sync(ALL, bit0 ? pair[0] : pair[1], 4);
                    sums[s * 2 * N + bit1 * N + low + bit0] = sum;
                }
                const float to_input = sum_over_parts(dinput, slots.part);
                const float to_exponent = sum_over_parts(dexponent, slots.part) * LN2;
                const int l = sub * SUB + batch + own_step(slots.part), c = slots.channel(0);
                const float delta = chunk.delta[l][c], signal = wide(chunk.x[l][c]), grad = wide(chunk.dy[l][c]);
                const float ddt = fmaf(to_input, signal, to_exponent) * softplus_slope(delta);
                doffset += ddt;
                dskip = fmaf(grad, signal, dskip);
                chunk.delta[l][c] = ddt;
                narrow(fmaf(to_input, delta, skip * grad), chunk.x[l][c]);
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < STRIDE * COLUMNS; i += THREADS) {
            const int row = i / COLUMNS, column = i % COLUMNS * PACK, l = start + row;
            if (l >= place.length || place.first + column >= channels) continue;
            Pack pack;
#pragma unroll
            for (int j = 0; j < PACK; j++) narrow(chunk.delta[row][column + j], pack.at[j]);
            *reinterpret_cast<Pack*>(dt + place.at(place.sequence, l, column)) = pack;
            *reinterpret_cast<Pack*>(dx + place.at(result, l, column)) =
                *reinterpret_cast<const Pack*>(&chunk.x[row][column]);
        }
        for (int i = threadIdx.x; i < STRIDE * 2 * N; i += THREADS) {
            const int row = i / (2 * N), l = start + row;
            if (l >= place.length) continue;
            const float* sums = chunk.kept[row / SUB][0][0] + row % SUB * 2 * N + i % (2 * N);
            float sum = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += sums[w * (SUB * 2 * N)];
            const size_t at = place.map * place.length + pixel(place.direction, l, height, width);
            narrow(sum, dbc[((at * DIRECTIONS + place.direction) * gridDim.x + blockIdx.x) * (2 * N) + i % (2 * N)]);
        }
    }

#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++)
            if (place.first + slots.channel(c) < channels)
                dA[(place.sequence * channels + place.first + slots.channel(c)) * N + state(i)] = drate[c][i];
    // The parts that share a channel have each seen some of its steps.
    dskip += __shfl_xor_sync(ALL, dskip, 2), doffset += __shfl_xor_sync(ALL, doffset, 2);
    if (CHANNELS == 1) dskip += __shfl_xor_sync(ALL, dskip, 1), doffset += __shfl_xor_sync(ALL, doffset, 1);
    if (own && slots.part < CHANNELS) {
        dD[place.sequence * channels + place.first + slots.channel(0)] = dskip;
        dbias[place.sequence * channels + place.first + slots.channel(0)] = doffset;
    }
}
