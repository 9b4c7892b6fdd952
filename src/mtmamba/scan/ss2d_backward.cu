// The backward scan. See ss2d.cuh.
//
// Chunk by chunk from the end: the states are computed again from the one that the forward pass saved before the chunk,
// a first time to keep one every SUB steps in shared memory, a second time to hold those of SUB steps, and their decays,
// in registers while the gradient walks back over them.

constexpr int WARPS = THREADS / 32;
constexpr int SUB = 4;
constexpr int SUBS = STRIDE / SUB;

struct Step {
    float delta, input;                         // input: delta x
};
struct Chunk {
    alignas(16) Step steps[STRIDE][WIDTH];      // becomes, in `delta`, the gradient of dt
    alignas(16) REAL x[STRIDE][WIDTH];          // becomes the gradient of x
    alignas(16) REAL dy[STRIDE][WIDTH];
    alignas(16) float inputs[STRIDE][2 * N];
    // The states before each SUB steps; once taken up, what the warp's channels together give to B and C.
    union {
        Reals<STATES> states[CHANNELS][32];
        REAL sums[SUB][2 * N];
    } kept[SUBS][WARPS];
};

// The order of a thread's states: what it gives away first in a sum over the groups is always in slots 2 and 3.
struct Order {
    int low, high;
    __device__ Order(int part, int upper) : low(part * STATES + 2 * upper), high(part * STATES + 2 * (1 - upper)) {}
    __device__ int state(int i) const { return i < 2 ? low + i : high + i - 2; }
    __device__ void read(const float* from, float (&to)[STATES]) const {
        const float2 a = *reinterpret_cast<const float2*>(from + low), b = *reinterpret_cast<const float2*>(from + high);
        to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
    }
};

// Take the states one step on, having shown each decay to each(channel slot, state slot, decay).
template <typename Each>
__device__ __forceinline__ void advance(const Chunk& chunk, int l, const Slots& slots, const Order& order,
                                        const float (&rate)[CHANNELS][STATES], float (&h)[CHANNELS][STATES],
                                        const Each& each) {
    float in[STATES];
    order.read(chunk.inputs[l], in);
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
        const Step step = chunk.steps[l][slots.channel(c)];
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const float decay = exp2_fast(step.delta * rate[c][i]);
            each(c, i, decay);
            h[c][i] = fmaf(decay, h[c][i], step.input * in[i]);
        }
    }
}

// dt (T, K, B, L, E) is overwritten with its gradient; dx (K, T, B, L, E); dbc (blocks, T, B, L, K, 2 N), blocks along
// E; dA (T, K, B, E, N), with respect to A; dD, dbias (T, K, B, E).
extern "C" __global__ void __launch_bounds__(THREADS) ss2d_backward(
    const REAL* __restrict__ x, REAL* dt, const REAL* __restrict__ bc, const float* __restrict__ A2,
    const float* __restrict__ bias, const float* __restrict__ D, const REAL* __restrict__ states,
    const REAL* __restrict__ dy, REAL* __restrict__ dx, REAL* __restrict__ dbc, float* __restrict__ dA,
    float* __restrict__ dD, float* __restrict__ dbias, int tasks, int images, int height, int width, int channels) {
    DYNAMIC_SHARED(memory);
    Chunk& chunk = *reinterpret_cast<Chunk*>(memory);
    alignas(16) __shared__ float offset[WIDTH];
    const Place place(images, height, width, channels);
    const Slots slots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int bit0 = lane >> 2 & 1, bit1 = lane >> 3 & 1, bit2 = lane >> 4 & 1;  // of the group within the warp
    const int row0 = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS * PACK;
    const bool inside = place.has(column);
    const int chunks = (place.length + STRIDE - 1) / STRIDE;
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const REAL* const x_here = x + place.origin(place.map) + column;
    const REAL* const dy_here = dy + place.origin(place.map) + column;
    REAL* const dt_here = dt + place.origin(place.sequence) + column;
    REAL* const dx_here = dx + place.origin(result) + column;
    REAL* const dbc_here =
        dbc + static_cast<size_t>(blockIdx.x) * tasks * images * place.length * DIRECTIONS * (2 * N);
    const Order order(slots.part, bit2);

    for (int c = threadIdx.x; c < WIDTH; c += THREADS) offset[c] = place.has(c) ? bias[place.parameter(c)] : 0;
    float rate[CHANNELS][STATES], carry[CHANNELS][STATES], drate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + order.state(i)] : 0;
            carry[c][i] = drate[c][i] = 0;
        }
    const bool own = place.has(slots.channel(0));
    const float skip = own ? D[place.parameter(slots.channel(0))] : 0;
    float dskip = 0, doffset = 0;

    for (int number = chunks - 1; number >= 0; number--) {
        const int start = number * STRIDE;
        __syncthreads();
        constexpr int ROWS = THREADS / COLUMNS;
#pragma unroll 2
        for (int row = row0; row < STRIDE; row += ROWS) {
            const bool real = start + row < place.length && inside;
            Pack px = {}, pdt = {}, pdy = {};
            if (real) {
                const int at = place.pixel(start + row) * channels;
                px = *reinterpret_cast<const Pack*>(x_here + at);
                pdt = *reinterpret_cast<const Pack*>(dt_here + at);
                pdy = *reinterpret_cast<const Pack*>(dy_here + at);
            }
            *reinterpret_cast<Pack*>(&chunk.x[row][column]) = px;
            *reinterpret_cast<Pack*>(&chunk.dy[row][column]) = pdy;
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float delta = real ? softplus(wide(pdt.at[j]) + offset[column + j]) : 0;
                chunk.steps[row][column + j] = {delta, delta * wide(px.at[j])};
            }
        }
        for (int i = threadIdx.x; i < STRIDE * (2 * N / PACK); i += THREADS) {
            const int row = i / (2 * N / PACK), share = i % (2 * N / PACK) * PACK;
            Pack pack = {};
            if (start + row < place.length)
                pack = *reinterpret_cast<const Pack*>(bc + place.inputs(place.pixel(start + row)) + share);
#pragma unroll
            for (int j = 0; j < PACK; j++) chunk.inputs[row][share + j] = wide(pack.at[j]);
        }
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            const size_t at = (static_cast<size_t>(place.sequence) * chunks + number) * channels + place.first;
            const bool real = place.has(slots.channel(c));
#pragma unroll
            for (int i = 0; i < STATES; i++)
                h[c][i] = real ? wide(states[(at + slots.channel(c)) * N + order.state(i)]) : 0;
        }
        __syncthreads();

        for (int sub = 0; sub < SUBS - 1; sub++) {
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
#pragma unroll
                for (int i = 0; i < STATES; i++) narrow(h[c][i], chunk.kept[sub][warp].states[c][lane].at[i]);
#pragma unroll
            for (int s = 0; s < SUB; s++) advance(chunk, sub * SUB + s, slots, order, rate, h, [](int, int, float) {});
        }

        for (int sub = SUBS - 1; sub >= 0; sub--) {
            if (sub < SUBS - 1)
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    const Reals<STATES> pack = chunk.kept[sub][warp].states[c][lane];
#pragma unroll
                    for (int i = 0; i < STATES; i++) h[c][i] = wide(pack.at[i]);
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
                    order.read(chunk.inputs[l], in);
                    order.read(chunk.inputs[l] + N, out);
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        const Step step = chunk.steps[l][slots.channel(c)];
                        const float grad = wide(chunk.dy[l][slots.channel(c)]);
                        dinput[q][c] = dexponent[q][c] = 0;
#pragma unroll
                        for (int i = 0; i < STATES; i++) {
                            const float dh = fmaf(out[i], grad, carry[c][i]);
                            const float after = s + 1 < SUB ? before[s + 1 < SUB ? s + 1 : s][c][i] : h[c][i];
                            dout[i] = fmaf(after, grad, dout[i]);
                            din[i] = fmaf(dh, step.input, din[i]);
                            dinput[q][c] = fmaf(dh, in[i], dinput[q][c]);
                            carry[c][i] = dh * decays[s][c][i];
                            const float inner = carry[c][i] * before[s][c][i];
                            drate[c][i] = fmaf(inner, step.delta, drate[c][i]);
                            dexponent[q][c] = fmaf(inner, rate[c][i], dexponent[q][c]);
                        }
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
                    const float sum = (bit0 ? pair[1] : pair[0]) + __shfl_xor_sync(ALL, bit0 ? pair[0] : pair[1], 4);
                    narrow(sum, chunk.kept[sub][warp].sums[s][bit1 * N + order.low + bit0]);
                }
                const float to_input = sum_over_parts(dinput, slots.part);
                const float to_exponent = sum_over_parts(dexponent, slots.part) * LN2;
                const int l = sub * SUB + batch + own_step(slots.part), c = slots.channel(0);
                const float delta = chunk.steps[l][c].delta, signal = wide(chunk.x[l][c]), grad = wide(chunk.dy[l][c]);
                const float ddt = fmaf(to_input, signal, to_exponent) * softplus_slope(delta);
                doffset += ddt;
                dskip = fmaf(grad, signal, dskip);
                chunk.steps[l][c].delta = ddt;
                narrow(fmaf(to_input, delta, skip * grad), chunk.x[l][c]);
            }
        }
        __syncthreads();
        for (int row = row0; row < STRIDE; row += ROWS) {
            if (start + row >= place.length || !inside) continue;
            const int at = place.pixel(start + row) * channels;
            Pack pack;
#pragma unroll
            for (int j = 0; j < PACK; j++) narrow(chunk.steps[row][column + j].delta, pack.at[j]);
            *reinterpret_cast<Pack*>(dt_here + at) = pack;
            *reinterpret_cast<Pack*>(dx_here + at) = *reinterpret_cast<const Pack*>(&chunk.x[row][column]);
        }
        for (int i = threadIdx.x; i < STRIDE * (2 * N / PACK); i += THREADS) {
            const int row = i / (2 * N / PACK), share = i % (2 * N / PACK) * PACK;
            if (start + row >= place.length) continue;
            float sums[PACK] = {};
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const Pack part = *reinterpret_cast<const Pack*>(&chunk.kept[row / SUB][w].sums[row % SUB][share]);
#pragma unroll
                for (int j = 0; j < PACK; j++) sums[j] += wide(part.at[j]);
            }
            Pack pack;
#pragma unroll
            for (int j = 0; j < PACK; j++) narrow(sums[j], pack.at[j]);
            *reinterpret_cast<Pack*>(dbc_here + place.inputs(place.pixel(start + row)) + share) = pack;
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
    if (CHANNELS == 1) dskip += __shfl_xor_sync(ALL, dskip, 1), doffset += __shfl_xor_sync(ALL, doffset, 1);
    if (own && slots.part < CHANNELS) {
        const size_t at = static_cast<size_t>(place.sequence) * channels + place.first + slots.channel(0);
        dD[at] = dskip;
        dbias[at] = doffset;
    }
}
