// The backward scan. See ss2d.cuh.
//
// Chunk by chunk from the end: the states are computed again from those that the forward pass saved before the chunk,
// a first time to keep some every SUB steps in shared memory, a second time to hold those of SUB steps, and their
// decays, in registers while the gradient walks back over them. SUB, a divisor of STRIDE, is given at compile time.

constexpr int WARPS = THREADS / 32;
constexpr int SUBS = STRIDE / SUB;
constexpr int BC_ROWS = STRIDE * N / THREADS;   // steps of which a thread brings a pair of B's or C's

struct Chunk {
    alignas(16) float2 steps[STRIDE][ROW];      // delta, delta x; become the gradients of dt and x
    alignas(16) float2 signals[STRIDE][ROW];   // x, dy
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

// ddt may be dt. dbc (blocks, T, B, L, K, 2 N), blocks along E; dA (T, K, B, E, N), with respect to A; dD, dbias
// (T, K, B, E). weight is not read where RANK is 0.
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) ss2d_backward(
    const REAL* __restrict__ x, const REAL* low, const REAL* __restrict__ weight, const REAL* __restrict__ bc,
    const float* __restrict__ A2, const float* __restrict__ bias, const float* __restrict__ D,
    const REAL* __restrict__ states, const REAL* __restrict__ dy, REAL* __restrict__ dx, REAL* ddt,
    REAL* __restrict__ dbc, float* __restrict__ dA, float* __restrict__ dD, float* __restrict__ dbias, int stride,
    int tasks, int images, int height, int width, int channels) {
    DYNAMIC_SHARED(memory);
    Chunk& chunk = *reinterpret_cast<Chunk*>(memory);
    const Place place(images, height, width, channels);
    const Slots slots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int bit0 = lane >> 2 & 1, bit1 = lane >> 3 & 1, bit2 = lane >> 4 & 1;  // of the group within the warp
    const Share share;
    const bool inside = place.has(share.column);
    const int column = inside ? share.column : 0;  // what is read
    const int bc_row = threadIdx.x / N, bc_pair = threadIdx.x % N * 2;
    const int chunks = (place.length + STRIDE - 1) / STRIDE;
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const REAL* const x_here = x + place.origin(place.map) + column;
    const REAL* const dy_here = dy + place.origin(place.map) + column;
    REAL* const ddt_here = ddt + place.origin(place.sequence) + column;
    REAL* const dx_here = dx + place.origin(result) + column;
    REAL* const dbc_here =
        dbc + static_cast<size_t>(blockIdx.x) * tasks * images * place.length * DIRECTIONS * (2 * N);
    const Order order{slots.part, bit2};

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

    TimeSteps time(place, share, low, weight, bias, stride, channels);
    Span next_x[2], next_dy[2];
    const auto locate = [&](int number) {
        if (threadIdx.x < STRIDE) chunk.pixels[number % 4][threadIdx.x] = place.pixel(number * STRIDE + threadIdx.x);
    };
    const auto fetch = [&](int number) {
        const int pixels[2] = {chunk.pixels[number % 4][share.g], chunk.pixels[number % 4][share.g + 8]};
        time.fetch(pixels);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            next_x[i] = *reinterpret_cast<const Span*>(x_here + pixels[i] * channels);
            next_dy[i] = *reinterpret_cast<const Span*>(dy_here + pixels[i] * channels);
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
            here_bc[i] = *reinterpret_cast<const Pair*>(bc + place.inputs(pixels[row], stride) + bc_pair);
        }
        const REAL* const saved = states + place.states(number);
        Reals<STATES> here_states[CHANNELS];
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            here_states[c] = *reinterpret_cast<const Reals<STATES>*>(saved + c * THREADS * STATES);
        __syncthreads();
        const bool real[2] = {start + share.g < place.length, start + share.g + 8 < place.length};
        float delta[2][SPAN];
        time.take(real, delta);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float here = real[i] && inside ? 1 : 0;
#pragma unroll
            for (int c = 0; c < SPAN; c += 2) {
                const float x0 = next_x[i][c], x1 = next_x[i][c + 1];
                *reinterpret_cast<float4*>(&chunk.steps[share.g + 8 * i][share.column + c]) =
                    make_float4(delta[i][c], delta[i][c] * x0, delta[i][c + 1], delta[i][c + 1] * x1);
                *reinterpret_cast<float4*>(&chunk.signals[share.g + 8 * i][share.column + c]) =
                    make_float4(x0, here * next_dy[i][c], x1, here * next_dy[i][c + 1]);
            }
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

#pragma unroll 1
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
        for (int i = 0; i < 2; i++) {
            Span to_dt, to_x;
#pragma unroll
            for (int c = 0; c < SPAN; c += 2) {
                const float4 both = *reinterpret_cast<const float4*>(&chunk.steps[share.g + 8 * i][share.column + c]);
                to_dt.put(c, both.x, both.z), to_x.put(c, both.y, both.w);
            }
            if (real[i] && inside) {
                const int at = pixels[share.g + 8 * i] * channels;
                *reinterpret_cast<Span*>(ddt_here + at) = to_dt;
                *reinterpret_cast<Span*>(dx_here + at) = to_x;
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
                *reinterpret_cast<Pair*>(dbc_here + place.inputs(pixels[row], DIRECTIONS * 2 * N) + bc_pair) = both;
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
