// The forward scan. See ss2d.cuh.

constexpr int TILE = 4 * ROWS;                  // steps whose inputs are in shared memory
constexpr int STRETCH = TILE < STRIDE ? TILE : STRIDE;
constexpr int SHARE = TILE * 2 * N / THREADS;   // of a tile's B and C: what each thread brings
constexpr int Y_ROW = WIDTH + 8;                // rows of y are padded against bank conflicts

// y (K, T, B, L, E): each direction's own result. dt (T, K, B, L, E): time steps before bias and softplus. states may
// be null.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) ss2d_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ dt, const REAL* __restrict__ bc,
    const float* __restrict__ A2, const float* __restrict__ bias, const float* __restrict__ D,
    REAL* __restrict__ y, REAL* __restrict__ states, int bc_stride, int tasks, int images, int height, int width,
    int channels) {
    alignas(16) __shared__ float2 steps[TILE][WIDTH];  // delta, delta x
    alignas(16) __shared__ float inputs[TILE][2 * N];
    alignas(16) __shared__ float outputs[TILE][Y_ROW];
    __shared__ int pixels[2][TILE];             // of this tile's steps and the next's
    const Place place(images, height, width, channels);
    const Slots slots;
    const int row0 = threadIdx.x / PAIRS, pair = threadIdx.x % PAIRS * 2;
    const int bc_row = threadIdx.x / (2 * N / SHARE), bc_column = threadIdx.x % (2 * N / SHARE) * SHARE;
    const bool inside = place.has(pair);
    const int column = inside ? pair : 0;       // what is read
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const REAL* const x_here = x + place.origin(place.map) + column;
    const REAL* const dt_here = dt + place.origin(place.sequence) + column;
    REAL* const y_here = y + place.origin(result) + column;

    const float offset[2] = {bias[place.parameter(column)], bias[place.parameter(column + 1)]};
    const float skip[2] = {D[place.parameter(column)], D[place.parameter(column + 1)]};
    float rate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + slots.part * STATES + i] : 0;
            h[c][i] = 0;
        }

    Reals<SHARE> next_bc;
    Pair next_x[4], next_dt[4];
    const auto locate = [&](int start) {
        if (threadIdx.x < TILE) pixels[start / TILE % 2][threadIdx.x] = place.pixel(start + threadIdx.x);
    };
    const auto fetch = [&](int start) {
        const int* const here = pixels[start / TILE % 2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = here[row0 + i * ROWS] * channels;
            next_x[i] = *reinterpret_cast<const Pair*>(x_here + at);
            next_dt[i] = *reinterpret_cast<const Pair*>(dt_here + at);
        }
        next_bc = *reinterpret_cast<const Reals<SHARE>*>(bc + place.inputs(here[bc_row], bc_stride) + bc_column);
    };
    locate(0);
    __syncthreads();
    fetch(0);
    locate(TILE);
    for (int start = 0; start < place.length; start += TILE) {
        Pair here[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            here[i] = next_x[i];
            const int row = row0 + i * ROWS;
            float4 both;
            both.x = place.delta(start + row, next_dt[i][0], offset[0]), both.y = both.x * here[i][0];
            both.z = place.delta(start + row, next_dt[i][1], offset[1]), both.w = both.z * here[i][1];
            *reinterpret_cast<float4*>(&steps[row][pair]) = both;
        }
#pragma unroll
        for (int i = 0; i < SHARE; i++) inputs[bc_row][bc_column + i] = next_bc[i];
        __syncthreads();
        fetch(start + TILE);
#pragma unroll 1
        for (int stretch = 0; stretch < TILE; stretch += STRETCH) {
            if (states != nullptr && (start + stretch) % STRIDE == 0 && start + stretch < place.length) {
                REAL* const to = states + place.states((start + stretch) / STRIDE);
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    Reals<STATES> pack;
#pragma unroll
                    for (int i = 0; i < STATES; i += 2) pack.put(i, h[c][i], h[c][i + 1]);
                    *reinterpret_cast<Reals<STATES>*>(to + c * THREADS * STATES) = pack;
                }
            }
#pragma unroll 8
            for (int batch = stretch; batch < stretch + STRETCH; batch += BATCH) {
                float sums[BATCH][CHANNELS];
#pragma unroll
                for (int s = 0; s < BATCH; s++) {
                    const float4 b4 = *reinterpret_cast<const float4*>(&inputs[batch + s][slots.part * STATES]);
                    const float4 c4 = *reinterpret_cast<const float4*>(&inputs[batch + s][N + slots.part * STATES]);
                    const float in[STATES] = {b4.x, b4.y, b4.z, b4.w}, out[STATES] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        const float2 step = steps[batch + s][slots.channel(c)];
                        sums[s][c] = 0;
#pragma unroll
                        for (int i = 0; i < STATES; i++) {
                            h[c][i] = fmaf(exp2_fast(step.x * rate[c][i]), h[c][i], step.y * in[i]);
                            sums[s][c] = fmaf(h[c][i], out[i], sums[s][c]);
                        }
                    }
                }
                outputs[batch + own_step(slots.part)][slots.channel(0)] = sum_over_parts(sums, slots.part);
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = row0 + i * ROWS;
            const float2 sum = *reinterpret_cast<const float2*>(&outputs[row][pair]);
            Pair both;
            both.put(0, fmaf(skip[0], here[i][0], sum.x), fmaf(skip[1], here[i][1], sum.y));
            if (start + row < place.length && inside)
                *reinterpret_cast<Pair*>(y_here + pixels[start / TILE % 2][row] * channels) = both;
        }
        __syncthreads();
        locate(start + 2 * TILE);
    }
}
