// The backward scan. See ss2d.cuh.
//
// Chunk by chunk from the end: the states are computed again from those that the forward pass saved before the chunk,
// a first time to keep some every SUB steps in shared memory, a second time to hold those of SUB steps, and their
// decays, in registers while the gradient walks back over them. Compilers keep reads and writes of shared memory in
// order: what a thread writes is held back until nothing that it reads would have to wait for it.

constexpr int WARPS = THREADS / 32;
constexpr int SUB = 8 / CHANNELS, SUBS = STRIDE / SUB;
constexpr int VISITS = STRIDE / ROWS;           // of a chunk's rows: how often a thread brings a quad
constexpr int BC_VISITS = STRIDE / BC_ROWS;       // the same for B and C

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
        Quad x[VISITS][THREADS], dt[VISITS][THREADS], dy[VISITS][THREADS], bc[BC_VISITS][THREADS];
        Reals<STATES> states[CHANNELS][THREADS];
    } next;
    Quad earlier[VISITS][THREADS];              // what this chunk's gradients of x are added to
    int pixels[4][STRIDE];                      // of the steps of this chunk and of those to come
    // The block's first channel at the first pixel: read from here, lest the compiler compute them in every chunk.
    const char *x, *dy, *bc;
    char *dt, *dx, *dbc;
};
DYNAMIC_SHARED(Chunk);

// The order of a thread's states: what it gives away first in a sum over the groups is always in slots 2 and 3, what it
// gives away next in slot 1.
struct Turn {
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

// What a thread has for B and for C, to be summed over threads: in the map's precision, bf16 both at once.
template <typename T = REAL>
struct Both {
    float b, c;
    __device__ Both(float b, float c) : b(b), c(c) {}
    // Add what another thread has as `other`.
    __device__ void add(const Both& other, int lanes) {
        b += __shfl_xor_sync(ALL, other.b, lanes), c += __shfl_xor_sync(ALL, other.c, lanes);
    }
    __device__ float get(bool second) const { return second ? c : b; }
};
template <>
struct Both<bf16> {
    unsigned bits;
    __device__ Both(float b, float c) : bits(round_to_bf16(b, c)) {}
    __device__ void add(const Both& other, int lanes) {
        bits = add_bf16(__shfl_xor_sync(ALL, other.bits, lanes), bits);
    }
    __device__ float get(bool second) const { return __uint_as_float(__byte_perm(bits, 0, second ? 0x3244 : 0x1044)); }
};

// Take the states one step on, having shown each decay to each(channel slot, state slot, decay).
template <typename Each>
__device__ __forceinline__ void advance(const Chunk& chunk, int l, const Slots& slots, const Turn& turn,
                                        const float (&rate)[CHANNELS][STATES], float (&h)[CHANNELS][STATES],
                                        const Each& each) {
    float in[STATES];
    turn.read(chunk.inputs[l][0], in);
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

// dt is overwritten with its gradient; rows, columns: sums of their directions' gradients of x, to which this stretch adds
// (or not yet); dbc (blocks, T, K, B, here, 2 N), blocks along E; dA (T, K, B, E, N), with respect to A, and dD, dbias
// (T, K, B, E): to these, too, this stretch adds.
extern "C" __global__ void __launch_bounds__(THREADS, 3) ss2d_backward(
    const REAL* __restrict__ x, REAL* dt, const REAL* __restrict__ bc, const float* __restrict__ A2,
    const float* __restrict__ bias, const float* __restrict__ D, const REAL* __restrict__ states,
    const REAL* __restrict__ dy, REAL* __restrict__ rows, REAL* __restrict__ columns, REAL* __restrict__ dbc,
    float* __restrict__ carried, float* __restrict__ dA, float* __restrict__ dD, float* __restrict__ dbias,
    const int* __restrict__ order, int bc_stride, int all, int first, int here, int adds, int tasks, int images,
    int length, int channels) {
    Chunk& chunk = *reinterpret_cast<Chunk*>(shared_memory);
    const Place place(images, length, channels);
    const Slots slots;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int bit0 = lane & 1, bit1 = lane >> 3 & 1, bit2 = lane >> 4 & 1;  // of the group within the warp
    const int row0 = threadIdx.x / QUADS, quad = threadIdx.x % QUADS * 4;
    const bool inside = place.has(quad);
    const int column = inside ? quad : 0;       // what is read
    const int bc_row = threadIdx.x / (2 * N / 4), bc_quad = threadIdx.x % (2 * N / 4) * 4;
    const int first_chunk = first / STRIDE, last_chunk = (first + here) / STRIDE - 1;
    const unsigned row_bytes = channels * sizeof(REAL), column_bytes = column * sizeof(REAL);
    const unsigned bc_bytes = bc_stride * sizeof(REAL), dbc_bytes = 2 * N * sizeof(REAL);
    if (threadIdx.x == 0) {
        const size_t dbc_first = static_cast<size_t>(blockIdx.x) * tasks * DIRECTIONS * images + place.sequence;
        const size_t map = place.origin(place.map, length);
        chunk.x = reinterpret_cast<const char*>(x + map);
        chunk.dy = reinterpret_cast<const char*>(dy + map);
        chunk.bc = reinterpret_cast<const char*>(bc + place.inputs(bc_stride));
        chunk.dt = reinterpret_cast<char*>(dt + place.origin(place.sequence, here));
        chunk.dx = reinterpret_cast<char*>((place.direction & 1 ? columns : rows) + map);
        chunk.dbc = reinterpret_cast<char*>(dbc + dbc_first * here * (2 * N));
    }
    const Turn turn{slots.part, 2 * bit2 + bit1};

    float offset[4];
#pragma unroll
    for (int i = 0; i < 4; i++) offset[i] = bias[place.parameter(column + i)];
    float rate[CHANNELS][STATES], carry[CHANNELS][STATES], drate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + turn.state(i)] : 0;
            carry[c][i] = place.has(channel) ? carried[place.channel(channel) * N + turn.state(i)] : 0;
            drate[c][i] = 0;
        }
    const int own = slots.channel(0);
    const float skip = place.has(own) ? D[place.parameter(own)] : 0;
    float dskip = 0, doffset = 0;

    const REAL* saved = states + place.states(last_chunk, all, place.has(own) ? own : 0) + slots.part * STATES;
    const int other = place.has(own) ? (slots.channel(CHANNELS - 1) - own) * N : 0;
    const auto locate = [&](int number) {
        if (threadIdx.x < STRIDE)
            copy_later(chunk.pixels[number & 3][threadIdx.x], order[place.direction * all + number * STRIDE + threadIdx.x]);
    };
    const auto fetch = [&](int number) {
        const int* const pixels = chunk.pixels[number & 3];
        unsigned from[VISITS], bc_from[BC_VISITS];
#pragma unroll
        for (int i = 0; i < VISITS; i++) from[i] = max(pixels[row0 + i * ROWS], 0) * row_bytes + column_bytes;
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++)
            bc_from[i] = max(pixels[bc_row + i * BC_ROWS], 0) * bc_bytes + bc_quad * sizeof(REAL);
        const unsigned dt_from = (number * STRIDE - first + row0) * row_bytes + column_bytes;
        const char *const x = chunk.x, *const dt = chunk.dt, *const dy = chunk.dy, *const bc = chunk.bc;
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            copy_later(chunk.next.x[i][threadIdx.x], at<Quad>(x, from[i]));
            copy_later(chunk.next.dt[i][threadIdx.x], at<Quad>(dt, dt_from + i * ROWS * row_bytes));
            copy_later(chunk.next.dy[i][threadIdx.x], at<Quad>(dy, from[i]));
        }
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++) copy_later(chunk.next.bc[i][threadIdx.x], at<Quad>(bc, bc_from[i]));
#pragma unroll
        for (int c = 0; c < CHANNELS; c++)
            copy_later(chunk.next.states[c][threadIdx.x], *reinterpret_cast<const Reals<STATES>*>(saved + c * other));
        saved -= channels * N;
    };
#pragma unroll
    for (int i = 0; i < VISITS; i++) chunk.earlier[i][threadIdx.x] = Quad{};
    locate(last_chunk);
    if (last_chunk > first_chunk) locate(last_chunk - 1);
    wait_for_copies();
    __syncthreads();
    fetch(last_chunk);
    for (int number = last_chunk; number >= first_chunk; number--) {
        const int start = number * STRIDE;
        const int* const pixels = chunk.pixels[number & 3];
        wait_for_copies();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const int row = row0 + i * ROWS, pixel = pixels[row];
            const Quad x = chunk.next.x[i][threadIdx.x], dt = chunk.next.dt[i][threadIdx.x];
            const Quad dy = chunk.next.dy[i][threadIdx.x];
            const float counts = pixel >= 0 && inside ? 1 : 0, stopped = stop(pixel);
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                float4 step, signal;
                signal.x = x[j], signal.y = counts * dy[j];
                signal.z = x[j + 1], signal.w = counts * dy[j + 1];
                step.x = softplus(dt[j] + (offset[j] + stopped)), step.y = step.x * signal.x;
                step.z = softplus(dt[j + 1] + (offset[j + 1] + stopped)), step.w = step.z * signal.z;
                chunk.steps[row].half(quad, j / 2) = step;
                chunk.signals[row].half(quad, j / 2) = signal;
            }
        }
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++) {
            const Quad bc = chunk.next.bc[i][threadIdx.x];
            float(&to)[2][N] = chunk.inputs[bc_row + i * BC_ROWS][bc_quad / N];
            *reinterpret_cast<float4*>(&to[0][bc_quad % N]) = make_float4(bc[0], bc[1], bc[2], bc[3]);
            *reinterpret_cast<float4*>(&to[1][bc_quad % N]) = make_float4(bc[1], bc[0], bc[3], bc[2]);
        }
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
        if (adds)
#pragma unroll
            for (int i = 0; i < VISITS; i++)
                copy_later(chunk.earlier[i][threadIdx.x],
                           at<Quad>(chunk.dx, max(pixels[row0 + i * ROWS], 0) * row_bytes + column_bytes));
        if (number > first_chunk) fetch(number - 1);
        if (number > first_chunk + 1) locate(number - 2);

        Reals<STATES> packs[SUBS - 1][CHANNELS];
#pragma unroll
        for (int sub = 0; sub < SUBS - 1; sub++) {
#pragma unroll
            for (int c = 0; c < CHANNELS; c++)
#pragma unroll
                for (int i = 0; i < STATES; i += 2) packs[sub][c].put(i, h[c][i], h[c][i + 1]);
#pragma unroll
            for (int s = 0; s < SUB; s++) advance(chunk, sub * SUB + s, slots, turn, rate, h, [](int, int, float) {});
        }
#pragma unroll
        for (int sub = 0; sub < SUBS - 1; sub++)
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) chunk.kept[sub][warp].states[c][lane] = packs[sub][c];

        Reals<STATES> pack[CHANNELS];
#pragma unroll CHANNELS                         // more would not fit the cache for instructions
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
                advance(chunk, sub * SUB + s, slots, turn, rate, h, [&](int c, int i, float decay) {
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
                    turn.read(chunk.inputs[l][0], in);
                    turn.read(chunk.inputs[l][1], out);
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
                    Both<> both[STATES] = {{din[0], dout[0]}, {din[1], dout[1]}, {din[2], dout[2]}, {din[3], dout[3]}};
                    both[0].add(both[2], 16), both[1].add(both[3], 16);
                    both[0].add(both[1], 8);
                    both[0].add(both[0], 1);
                    sums[s] = both[0].get(bit0);
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
            for (int s = 0; s < SUB; s++) chunk.kept[sub][warp].sums[s][bit0 * N + turn.state(0)] = sums[s];
#pragma unroll
            for (int batch = 0; batch < SUB; batch += BATCH)
                chunk.steps[sub * SUB + batch + own_step(slots.part)].both[slots.index[0]] = results[batch / BATCH];
        }
        __syncthreads();
        wait_for_copies();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const int row = row0 + i * ROWS, pixel = pixels[row];
            const unsigned to = max(pixel, 0) * row_bytes + column_bytes;
            const Quad other = chunk.earlier[i][threadIdx.x];
            Quad ddt, ddx;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const float4 two = chunk.steps[row].half(quad, j / 2);
                ddt.put(j, two.x, two.z), ddx.put(j, two.y + other[j], two.w + other[j + 1]);
            }
            if (inside) at<Quad>(chunk.dt, (start - first + row) * row_bytes + column_bytes) = ddt;
            if (inside && pixel >= 0) at<Quad>(chunk.dx, to) = ddx;
        }
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++) {
            const int row = bc_row + i * BC_ROWS;
            float sums[4] = {};
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float* const part = &chunk.kept[row / SUB][w].sums[row % SUB][bc_quad];
#pragma unroll
                for (int j = 0; j < 4; j++) sums[j] += part[j];
            }
            Quad all;
            all.put(0, sums[0], sums[1]), all.put(2, sums[2], sums[3]);
            at<Quad>(chunk.dbc, (start - first + row) * dbc_bytes + bc_quad * sizeof(REAL)) = all;
        }
    }

#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const size_t number = place.channel(slots.channel(c)) * N + turn.state(i);
            if (place.has(slots.channel(c))) dA[number] += drate[c][i], carried[number] = carry[c][i];
        }
    // The parts that share a channel have each seen some of its steps.
    dskip += __shfl_xor_sync(ALL, dskip, 4), doffset += __shfl_xor_sync(ALL, doffset, 4);
    if constexpr (CHANNELS == 1)
        dskip += __shfl_xor_sync(ALL, dskip, 2), doffset += __shfl_xor_sync(ALL, doffset, 2);
    if (place.has(own) && slots.part < CHANNELS) {
        dD[place.channel(own)] += dskip;
        dbias[place.channel(own)] += doffset;
    }
}
