// The backward scan. See ss2d.cuh.
//
// Chunk by chunk from the end: the states are computed again from those that the forward pass saved before the chunk,
// a first time to keep some every SUB steps in shared memory, a second time to hold those of SUB steps, and their
// decays, in registers while the gradient walks back over them. SUB, a divisor of STRIDE, is given at compile time.

constexpr int WARPS = THREADS / 32;
constexpr int SUBS = STRIDE / SUB;
constexpr int PAIR_ROWS = STRIDE / ROWS, BC_ROWS = STRIDE * N / THREADS;  // rows of which a thread brings a pair

struct Chunk {
    alignas(16) float2 steps[STRIDE][WIDTH];    // delta, delta x; become the gradients of dt and x
    alignas(16) float2 signals[STRIDE][WIDTH];  // x, dy
    alignas(16) float inputs[STRIDE][2][2 * N]; // B, C in the order of either half of the warp
    // The states before each SUB steps; once taken up, what the warp's channels together give to B and C.
    union {
        Reals<STATES> states[CHANNELS][32];
        float sums[SUB][2 * N];
    } kept[SUBS][WARPS];
    int pixels[4][STRIDE];                      // of the steps of this chunk and of those to come
};

// The order of a thread's states: what it gives away first in a sum over the groups is always in slots 2 and 3.
struct Order {
    int part, upper;
    __device__ int state(int i) const { return part * STATES + (i ^ 2 * upper); }
    __device__ void read(const float (&from)[2][2 * N], int first, float (&to)[STATES]) const {
        const float4 all = *reinterpret_cast<const float4*>(&from[upper][first + part * STATES]);
        to[0] = all.x, to[1] = all.y, to[2] = all.z, to[3] = all.w;
    }
};

// Take the states one step on, having shown each decay to each(channel slot, state slot, decay).
template <typename Each>
__device__ __forceinline__ void advance(const Chunk& chunk, int l, const Slots& slots, const Order& order,
                                        const float (&rate)[CHANNELS][STATES], float (&h)[CHANNELS][STATES],
                                        const Each& each) {
    float in[STATES];
    order.read(chunk.inputs[l], 0, in);
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
        const float2 step = chunk.steps[l][slots.channel(c)];
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const float decay = exp2_fast(step.x * rate[c][i]);
            each(c, i, decay);
            h[c][i] = fmaf(decay, h[c][i], step.y * in[i]);
        }
    }
}

// dt (T, K, B, L, E) is overwritten with its gradient; dx (K, T, B, L, E); dbc (blocks, T, B, L, K, 2 N), blocks along
// E; dA (T, K, B, E, N), with respect to A; dD, dbias (T, K, B, E).
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) ss2d_backward(
    const REAL* __restrict__ x, REAL* dt, const REAL* __restrict__ bc, const float* __restrict__ A2,
    const float* __restrict__ bias, const float* __restrict__ D, const REAL* __restrict__ states,
    const REAL* __restrict__ dy, REAL* __restrict__ dx, REAL* __restrict__ dbc, float* __restrict__ dA,
    float* __restrict__ dD, float* __restrict__ dbias, int bc_stride, int tasks, int images, int height, int width,
    int channels) {
    DYNAMIC_SHARED(memory);
    Chunk& chunk = *reinterpret_cast<Chunk*>(memory);
    const Place place(images, height, width, channels);
    const Slots slots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int bit0 = lane >> 2 & 1, bit1 = lane >> 3 & 1, bit2 = lane >> 4 & 1;  // of the group within the warp
    const int row0 = threadIdx.x / PAIRS, pair = threadIdx.x % PAIRS * 2;
    const bool inside = place.has(pair);
    const int column = inside ? pair : 0;       // what is read
    const int bc_row = threadIdx.x / N, bc_pair = threadIdx.x % N * 2;
    const int chunks = (place.length + STRIDE - 1) / STRIDE;
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const REAL* const x_here = x + place.origin(place.map) + column;
    const REAL* const dy_here = dy + place.origin(place.map) + column;
    REAL* const dt_here = dt + place.origin(place.sequence) + column;
    REAL* const dx_here = dx + place.origin(result) + column;
    REAL* const dbc_here =
        dbc + static_cast<size_t>(blockIdx.x) * tasks * images * place.length * DIRECTIONS * (2 * N);
    const Order order{slots.part, bit2};

    const float offset[2] = {bias[place.parameter(column)], bias[place.parameter(column + 1)]};
    float rate[CHANNELS][STATES], carry[CHANNELS][STATES], drate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + order.state(i)] : 0;
            carry[c][i] = drate[c][i] = 0;
        }
    const int own = slots.channel(0);
    const float skip = place.has(own) ? D[place.parameter(own)] : 0;
    float dskip = 0, doffset = 0;

    Pair next_x[PAIR_ROWS], next_dt[PAIR_ROWS], next_dy[PAIR_ROWS];
    const auto locate = [&](int number) {
        if (threadIdx.x < STRIDE) chunk.pixels[number % 4][threadIdx.x] = place.pixel(number * STRIDE + threadIdx.x);
    };
    const auto fetch = [&](int number) {
        const int* const pixels = chunk.pixels[number % 4];
#pragma unroll
        for (int i = 0; i < PAIR_ROWS; i++) {
            const int at = pixels[row0 + i * ROWS] * channels;
            next_x[i] = *reinterpret_cast<const Pair*>(x_here + at);
            next_dt[i] = *reinterpret_cast<const Pair*>(dt_here + at);
            next_dy[i] = *reinterpret_cast<const Pair*>(dy_here + at);
        }
    };
    locate(chunks - 1);
    if (chunks > 1) locate(chunks - 2);
    __syncthreads();
    fetch(chunks - 1);
    for (int number = chunks - 1; number >= 0; number--) {
        const int start = number * STRIDE;
        const int* const pixels = chunk.pixels[number % 4];
        Pair here_bc[BC_ROWS];
#pragma unroll
        for (int i = 0; i < BC_ROWS; i++) {
            const int row = bc_row + i * (THREADS / N);
            here_bc[i] = *reinterpret_cast<const Pair*>(bc + place.inputs(pixels[row], bc_stride) + bc_pair);
        }
        const REAL* const saved = states + place.states(number);
        Reals<STATES> here_states[CHANNELS];
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            here_states[c] = *reinterpret_cast<const Reals<STATES>*>(saved + c * THREADS * STATES);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PAIR_ROWS; i++) {
            const int row = row0 + i * ROWS;
            const Pair px = next_x[i], pdt = next_dt[i], pdy = next_dy[i];
            const float here = start + row < place.length && inside ? 1 : 0;
            float4 step, signal;
            step.x = place.delta(start + row, pdt[0], offset[0]), step.y = step.x * px[0];
            step.z = place.delta(start + row, pdt[1], offset[1]), step.w = step.z * px[1];
            signal.x = px[0], signal.y = here * pdy[0];
            signal.z = px[1], signal.w = here * pdy[1];
            *reinterpret_cast<float4*>(&chunk.steps[row][pair]) = step;
            *reinterpret_cast<float4*>(&chunk.signals[row][pair]) = signal;
        }
#pragma unroll
        for (int i = 0; i < BC_ROWS; i++) {
            const int row = bc_row + i * (THREADS / N);
            const float2 values = make_float2(here_bc[i][0], here_bc[i][1]);
            *reinterpret_cast<float2*>(&chunk.inputs[row][0][bc_pair]) = values;
            *reinterpret_cast<float2*>(&chunk.inputs[row][1][bc_pair ^ 2]) = values;
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
#pragma unroll
            for (int i = 0; i < STATES; i++) h[c][i] = bit2 ? here_states[c][i ^ 2] : here_states[c][i];
        __syncthreads();
        if (number > 1) locate(number - 2);

#pragma unroll
        for (int sub = 0; sub < SUBS - 1; sub++) {
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
#pragma unroll
                for (int i = 0; i < STATES; i += 2)
                    chunk.kept[sub][warp].states[c][lane].put(i, h[c][i], h[c][i + 1]);
#pragma unroll
            for (int s = 0; s < SUB; s++) advance(chunk, sub * SUB + s, slots, order, rate, h, [](int, int, float) {});
        }

#pragma unroll 1
        for (int sub = SUBS - 1; sub >= 0; sub--) {
            if (sub < SUBS - 1)
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    const Reals<STATES> pack = chunk.kept[sub][warp].states[c][lane];
#pragma unroll
                    for (int i = 0; i < STATES; i++) h[c][i] = pack[i];
                }
            __syncwarp();
            float before[SUB][CHANNELS][STATES], decays[SUB][CHANNELS][STATES];
#pragma unroll
            for (int s = 0; s < SUB; s++)
                advance(chunk, sub * SUB + s, slots, order, rate, h, [&](int c, int i, float decay) {
                    before[s][c][i] = h[c][i];
                    decays[s][c][i] = decay;
                });
#pragma unroll
            for (int batch = SUB - BATCH; batch >= 0; batch -= BATCH) {
                float dinput[BATCH][CHANNELS], dexponent[BATCH][CHANNELS];
#pragma unroll
                for (int q = BATCH - 1; q >= 0; q--) {
                    const int s = batch + q, l = sub * SUB + s;
                    float in[STATES], out[STATES], din[STATES] = {}, dout[STATES] = {};
                    order.read(chunk.inputs[l], 0, in);
                    order.read(chunk.inputs[l], N, out);
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        const float2 step = chunk.steps[l][slots.channel(c)];
                        const float grad = chunk.signals[l][slots.channel(c)].y;
                        dinput[q][c] = dexponent[q][c] = 0;
#pragma unroll
                        for (int i = 0; i < STATES; i++) {
                            const float dh = fmaf(out[i], grad, carry[c][i]);
                            const float after = s + 1 < SUB ? before[s + 1 < SUB ? s + 1 : s][c][i] : h[c][i];
                            dout[i] = fmaf(after, grad, dout[i]);
                            din[i] = fmaf(dh, step.y, din[i]);
                            dinput[q][c] = fmaf(dh, in[i], dinput[q][c]);
                            carry[c][i] = dh * decays[s][c][i];
                            const float inner = carry[c][i] * before[s][c][i];
                            drate[c][i] = fmaf(inner, step.x, drate[c][i]);
                            dexponent[q][c] = fmaf(inner, rate[c][i], dexponent[q][c]);
                        }
                    }
                    // Sum what B and C get over the warp's eight groups; each lane ends with one of the 2 N sums.
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        din[i] += __shfl_xor_sync(ALL, din[i + 2], 16);
                        dout[i] += __shfl_xor_sync(ALL, dout[i + 2], 16);
                    }
                    float twin[2];
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        twin[i] = (bit1 ? dout[i] : din[i]) + __shfl_xor_sync(ALL, bit1 ? din[i] : dout[i], 8);
                    const float sum = (bit0 ? twin[1] : twin[0]) + __shfl_xor_sync(ALL, bit0 ? twin[0] : twin[1], 4);
                    chunk.kept[sub][warp].sums[s][bit1 * N + order.state(bit0)] = sum;
                }
                const float to_input = sum_over_parts(dinput, slots.part);
                const float to_exponent = sum_over_parts(dexponent, slots.part) * LN2;
                const int l = sub * SUB + batch + own_step(slots.part);
                const float delta = chunk.steps[l][own].x;
                const float2 signal = chunk.signals[l][own];
                const float ddt = fmaf(to_input, signal.x, to_exponent) * softplus_slope(delta);
                doffset += ddt;
                dskip = fmaf(signal.y, signal.x, dskip);
                chunk.steps[l][own] = make_float2(ddt, fmaf(to_input, delta, skip * signal.y));
            }
        }
        if (number > 0) fetch(number - 1);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PAIR_ROWS; i++) {
            const int row = row0 + i * ROWS, at = pixels[row] * channels;
            const float4 both = *reinterpret_cast<const float4*>(&chunk.steps[row][pair]);
            Pair pdt, pdx;
            pdt.put(0, both.x, both.z), pdx.put(0, both.y, both.w);
            if (start + row < place.length && inside) {
                *reinterpret_cast<Pair*>(dt_here + at) = pdt;
                *reinterpret_cast<Pair*>(dx_here + at) = pdx;
            }
        }
#pragma unroll
        for (int i = 0; i < BC_ROWS; i++) {
            const int row = bc_row + i * (THREADS / N);
            float2 sum = {};
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float* const part = &chunk.kept[row / SUB][w].sums[row % SUB][bc_pair];
                sum.x += part[0], sum.y += part[1];
            }
            Pair both;
            both.put(0, sum.x, sum.y);
            if (start + row < place.length)
                *reinterpret_cast<Pair*>(dbc_here + place.inputs(pixels[row]) + bc_pair) = both;
        }
    }

#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const size_t at = static_cast<size_t>(place.sequence) * channels + place.first + slots.channel(c);
            if (place.has(slots.channel(c))) dA[at * N + order.state(i)] = drate[c][i];
        }
    // The parts that share a channel have each seen some of its steps.
    dskip += __shfl_xor_sync(ALL, dskip, 2), doffset += __shfl_xor_sync(ALL, doffset, 2);
    if constexpr (CHANNELS == 1)
        dskip += __shfl_xor_sync(ALL, dskip, 1), doffset += __shfl_xor_sync(ALL, doffset, 1);
    if (place.has(own) && slots.part < CHANNELS) {
        const size_t at = static_cast<size_t>(place.sequence) * channels + place.first + own;
        dD[at] = dskip;
        dbias[at] = doffset;
    }
}
