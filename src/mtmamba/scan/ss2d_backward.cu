// The backward scan. See ss2d.cuh.
//
// Chunk by chunk from the end: the states are computed again from those that the forward pass saved before the chunk,
// a first time to keep some every SUB steps in shared memory, a second time to hold those of SUB steps, and their
// decays, in registers while the gradient walks back over them. Compilers keep reads and writes of shared memory in
// order: what a thread writes is held back until nothing that it reads would have to wait for it.

constexpr int WARPS = THREADS / 32;
constexpr int SUB = 8 / CHANNELS, SUBS = STRIDE / SUB;
constexpr int VISITS = STRIDE / ROWS;           // of a chunk's rows: how often a thread brings a quad
static_assert(STRIDE * 2 * N == THREADS * 4);   // it also brings one quad of B and C

struct Chunk {
    Row steps[STRIDE];                          // delta, delta x; become the gradients of dt and x
    Row signals[STRIDE];                        // x, dy
    alignas(16) float inputs[STRIDE][2][2][N];  // B, C; then with the states of each pair exchanged
    // The states before each SUB steps; once taken up, what the warp's channels together give to B and C.
    union alignas(16) {
        Reals<STATES> states[CHANNELS][32];
        float sums[SUB][2 * N];
    } kept[SUBS][WARPS];
    // What each thread will bring to the next chunk, copied here by itself meanwhile.
    struct {
        Quad x[VISITS][THREADS], dt[VISITS][THREADS], dy[VISITS][THREADS], bc[THREADS];
        Reals<STATES> states[CHANNELS][THREADS];
    } next;
    int pixels[4][STRIDE];                      // of the steps of this chunk and of those to come
    // The block's first channel at the first pixel: read from here, lest the compiler compute them in every chunk.
    const char *x, *dy, *bc;
    char *dt, *dx, *dbc;
};

// The order of a thread's states: what it gives away first in a sum over the groups is always in slots 2 and 3, what it
// gives away next in slot 1.
struct Order {
    int part, flip;
    __device__ int state(int i) const { return part * STATES + (i ^ flip); }
    __device__ void read(const float (&from)[2][N], float (&to)[STATES]) const {
#pragma unroll
        for (int i = 0; i < STATES; i += 2) {
            const float2 two = *reinterpret_cast<const float2*>(&from[flip & 1][part * STATES + (i ^ (flip & 2))]);
            to[i] = two.x, to[i + 1] = two.y;
        }
    }
};

// Take the states one step on, having shown each decay to each(channel slot, state slot, decay).
template <typename Each>
__device__ __forceinline__ void advance(const Chunk& chunk, int l, const Slots& slots, const Order& order,
                                        const float (&rate)[CHANNELS][STATES], float (&h)[CHANNELS][STATES],
                                        const Each& each) {
    float in[STATES];
    order.read(chunk.inputs[l][0], in);
#pragma unroll
    for (int c = 0; c < CHANNELS; c++) {
        const float2 step = chunk.steps[l].both[slots.index[c]];
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
extern "C" __global__ void __launch_bounds__(THREADS, 3) ss2d_backward(
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
    const int bit0 = lane & 1, bit1 = lane >> 3 & 1, bit2 = lane >> 4 & 1;  // of the group within the warp
    const int row0 = threadIdx.x / QUADS, quad = threadIdx.x % QUADS * 4;
    const bool inside = place.has(quad);
    const int column = inside ? quad : 0;       // what is read
    const int bc_row = threadIdx.x / (2 * N / 4), bc_quad = threadIdx.x % (2 * N / 4) * 4;
    const int chunks = (place.length + STRIDE - 1) / STRIDE;
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const unsigned row_bytes = channels * sizeof(REAL), column_bytes = column * sizeof(REAL);
    const unsigned bc_bytes = bc_stride * sizeof(REAL), dbc_bytes = DIRECTIONS * 2 * N * sizeof(REAL);
    if (threadIdx.x == 0) {
        const size_t dbc_size = static_cast<size_t>(tasks) * images * place.length * DIRECTIONS * (2 * N);
        chunk.x = reinterpret_cast<const char*>(x + place.origin(place.map));
        chunk.dy = reinterpret_cast<const char*>(dy + place.origin(place.map));
        chunk.bc = reinterpret_cast<const char*>(bc + place.inputs(0, bc_stride));
        chunk.dt = reinterpret_cast<char*>(dt + place.origin(place.sequence));
        chunk.dx = reinterpret_cast<char*>(dx + place.origin(result));
        chunk.dbc = reinterpret_cast<char*>(dbc + blockIdx.x * dbc_size + place.inputs(0));
    }
    const Order order{slots.part, 2 * bit2 + bit1};

    float offset[4];
#pragma unroll
    for (int i = 0; i < 4; i++) offset[i] = bias[place.parameter(column + i)];
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

    const REAL* saved = states + place.states(chunks - 1, place.has(own) ? own : 0) + slots.part * STATES;
    const int other = place.has(own) ? (slots.channel(CHANNELS - 1) - own) * N : 0;
    const auto locate = [&](int number) {
        if (threadIdx.x < STRIDE) chunk.pixels[number % 4][threadIdx.x] = place.pixel(number * STRIDE + threadIdx.x);
    };
    const auto fetch = [&](int number) {
        const int* const pixels = chunk.pixels[number % 4];
        unsigned here[VISITS];
#pragma unroll
        for (int i = 0; i < VISITS; i++) here[i] = pixels[row0 + i * ROWS] * row_bytes + column_bytes;
        const unsigned bc_here = pixels[bc_row] * bc_bytes + bc_quad * sizeof(REAL);
        const char *const x = chunk.x, *const dt = chunk.dt, *const dy = chunk.dy, *const bc = chunk.bc;
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            copy_later(chunk.next.x[i][threadIdx.x], at<Quad>(x, here[i]));
            copy_later(chunk.next.dt[i][threadIdx.x], at<Quad>(dt, here[i]));
            copy_later(chunk.next.dy[i][threadIdx.x], at<Quad>(dy, here[i]));
        }
        copy_later(chunk.next.bc[threadIdx.x], at<Quad>(bc, bc_here));
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            copy_later(chunk.next.states[c][threadIdx.x], *reinterpret_cast<const Reals<STATES>*>(saved + c * other));
        saved -= channels * N;
    };
    locate(chunks - 1);
    if (chunks > 1) locate(chunks - 2);
    __syncthreads();
    fetch(chunks - 1);
    for (int number = chunks - 1; number >= 0; number--) {
        const int start = number * STRIDE;
        const int* const pixels = chunk.pixels[number % 4];
        wait_for_copies();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const int row = row0 + i * ROWS;
            const Quad x = chunk.next.x[i][threadIdx.x], dt = chunk.next.dt[i][threadIdx.x];
            const Quad dy = chunk.next.dy[i][threadIdx.x];
            const float here = start + row < place.length && inside ? 1 : 0;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                float4 step, signal;
                signal.x = x[j], signal.y = here * dy[j];
                signal.z = x[j + 1], signal.w = here * dy[j + 1];
                step.x = place.delta(start + row, dt[j], offset[j]), step.y = step.x * signal.x;
                step.z = place.delta(start + row, dt[j + 1], offset[j + 1]), step.w = step.z * signal.z;
                chunk.steps[row].half(quad, j / 2) = step;
                chunk.signals[row].half(quad, j / 2) = signal;
            }
        }
        const Quad bc = chunk.next.bc[threadIdx.x];
        float(&to)[2][N] = chunk.inputs[bc_row][bc_quad / N];
        *reinterpret_cast<float4*>(&to[0][bc_quad % N]) = make_float4(bc[0], bc[1], bc[2], bc[3]);
        *reinterpret_cast<float4*>(&to[1][bc_quad % N]) = make_float4(bc[1], bc[0], bc[3], bc[2]);
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            const Reals<STATES> pack = chunk.next.states[c][threadIdx.x];
#pragma unroll
            for (int i = 0; i < STATES; i++) {  // in the thread's order
                const float low = bit1 ? pack[i % 2 ^ 1] : pack[i % 2];
                const float high = bit1 ? pack[i % 2 ^ 3] : pack[i % 2 ^ 2];
                h[c][i] = bit2 == i / 2 ? low : high;
            }
        }
        __syncthreads();
        if (number > 0) fetch(number - 1);
        if (number > 1) locate(number - 2);

        Reals<STATES> packs[SUBS - 1][CHANNELS];
#pragma unroll
        for (int sub = 0; sub < SUBS - 1; sub++) {
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
#pragma unroll
                for (int i = 0; i < STATES; i += 2) packs[sub][c].put(i, h[c][i], h[c][i + 1]);
#pragma unroll
            for (int s = 0; s < SUB; s++) advance(chunk, sub * SUB + s, slots, order, rate, h, [](int, int, float) {});
        }
#pragma unroll
        for (int sub = 0; sub < SUBS - 1; sub++)
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) chunk.kept[sub][warp].states[c][lane] = packs[sub][c];

        Reals<STATES> pack[CHANNELS];
#pragma unroll (CHANNELS == 1 ? SUBS : 1)       // more would not fit the cache for instructions
        for (int sub = SUBS - 1; sub >= 0; sub--) {
            if (sub < SUBS - 1)
#pragma unroll
                for (int c = 0; c < CHANNELS; c++)
#pragma unroll
                    for (int i = 0; i < STATES; i++) h[c][i] = pack[c][i];
            __syncwarp();
            if (sub > 0)
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) pack[c] = chunk.kept[sub - 1][warp].states[c][lane];
            float before[SUB][CHANNELS][STATES], decays[SUB][CHANNELS][STATES];
#pragma unroll
            for (int s = 0; s < SUB; s++)
                advance(chunk, sub * SUB + s, slots, order, rate, h, [&](int c, int i, float decay) {
                    before[s][c][i] = h[c][i];
                    decays[s][c][i] = decay;
                });
            float sums[SUB];
            float2 results[SUB / BATCH];
#pragma unroll
            for (int batch = SUB - BATCH; batch >= 0; batch -= BATCH) {
                float dinput[BATCH][CHANNELS], dexponent[BATCH][CHANNELS];
#pragma unroll
                for (int q = BATCH - 1; q >= 0; q--) {
                    const int s = batch + q, l = sub * SUB + s;
                    float in[STATES], out[STATES], din[STATES] = {}, dout[STATES] = {};
                    order.read(chunk.inputs[l][0], in);
                    order.read(chunk.inputs[l][1], out);
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        const float2 step = chunk.steps[l].both[slots.index[c]];
                        const float grad = chunk.signals[l].both[slots.index[c]].y;
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
                    din[0] += __shfl_xor_sync(ALL, din[1], 8);
                    dout[0] += __shfl_xor_sync(ALL, dout[1], 8);
                    sums[s] = (bit0 ? dout[0] : din[0]) + __shfl_xor_sync(ALL, bit0 ? din[0] : dout[0], 1);
                }
                const float to_input = sum_over_parts(dinput, slots.part);
                const float to_exponent = sum_over_parts(dexponent, slots.part) * LN2;
                const int l = sub * SUB + batch + own_step(slots.part);
                const float delta = chunk.steps[l].both[slots.index[0]].x;
                const float2 signal = chunk.signals[l].both[slots.index[0]];
                const float ddt = fmaf(to_input, signal.x, to_exponent) * softplus_slope(delta);
                doffset += ddt;
                dskip = fmaf(signal.y, signal.x, dskip);
                results[batch / BATCH] = make_float2(ddt, fmaf(to_input, delta, skip * signal.y));
            }
#pragma unroll
            for (int s = 0; s < SUB; s++) chunk.kept[sub][warp].sums[s][bit0 * N + order.state(0)] = sums[s];
#pragma unroll
            for (int batch = 0; batch < SUB; batch += BATCH)
                chunk.steps[sub * SUB + batch + own_step(slots.part)].both[slots.index[0]] = results[batch / BATCH];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const int row = row0 + i * ROWS;
            const unsigned bytes = pixels[row] * row_bytes + column_bytes;
            Quad ddt, ddx;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const float4 two = chunk.steps[row].half(quad, j / 2);
                ddt.put(j, two.x, two.z), ddx.put(j, two.y, two.w);
            }
            if (start + row < place.length && inside) {
                at<Quad>(chunk.dt, bytes) = ddt;
                at<Quad>(chunk.dx, bytes) = ddx;
            }
        }
        float sums[4] = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* const part = &chunk.kept[bc_row / SUB][w].sums[bc_row % SUB][bc_quad];
#pragma unroll
            for (int i = 0; i < 4; i++) sums[i] += part[i];
        }
        Quad all;
        all.put(0, sums[0], sums[1]), all.put(2, sums[2], sums[3]);
        if (start + bc_row < place.length)
            at<Quad>(chunk.dbc, pixels[bc_row] * dbc_bytes + bc_quad * sizeof(REAL)) = all;
    }

#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const size_t channel = static_cast<size_t>(place.sequence) * channels + place.first + slots.channel(c);
            if (place.has(slots.channel(c))) dA[channel * N + order.state(i)] = drate[c][i];
        }
    // The parts that share a channel have each seen some of its steps.
    dskip += __shfl_xor_sync(ALL, dskip, 4), doffset += __shfl_xor_sync(ALL, doffset, 4);
    if constexpr (CHANNELS == 1)
        dskip += __shfl_xor_sync(ALL, dskip, 2), doffset += __shfl_xor_sync(ALL, doffset, 2);
    if (place.has(own) && slots.part < CHANNELS) {
        const size_t channel = static_cast<size_t>(place.sequence) * channels + place.first + own;
        dD[channel] = dskip;
        dbias[channel] = doffset;
    }
}
