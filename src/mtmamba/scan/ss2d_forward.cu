// The forward scan. See ss2d.cuh.

constexpr int TILE = THREADS / COLUMNS;         // steps of a tile: one pack for each thread
constexpr int SHARE = 2 * N / COLUMNS;          // of a step's B and C: what each of a row's threads brings
constexpr int Y_ROW = WIDTH + 8 * CHANNELS;     // rows of y are padded against bank conflicts

// y (K, T, B, L, E): each direction's own result. dt (T, K, B, L, E): time steps before bias and softplus. states may
// be null.
extern "C" __global__ void __launch_bounds__(THREADS) ss2d_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ dt, const REAL* __restrict__ bc,
    const float* __restrict__ A2, const float* __restrict__ bias, const float* __restrict__ D,
    REAL* __restrict__ y, REAL* __restrict__ states, int tasks, int images, int height, int width, int channels) {
    __shared__ float2 steps[TILE][WIDTH];       // delta, delta x
    alignas(16) __shared__ float inputs[TILE][2 * N];
    alignas(16) __shared__ float outputs[TILE][Y_ROW];
    alignas(16) __shared__ float offset[WIDTH], skip[WIDTH];
    const Place place(images, height, width, channels);
    const Slots slots;
    const int row = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS * PACK;
    const int share = threadIdx.x % COLUMNS * SHARE;
    const bool inside = place.has(column);
    const int chunks = (place.length + STRIDE - 1) / STRIDE;
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const REAL* const x_here = x + place.origin(place.map) + column;
    const REAL* const dt_here = dt + place.origin(place.sequence) + column;
    REAL* const y_here = y + place.origin(result) + column;

    for (int c = threadIdx.x; c < WIDTH; c += THREADS) {
        offset[c] = place.has(c) ? bias[place.parameter(c)] : 0;
        skip[c] = place.has(c) ? D[place.parameter(c)] : 0;
    }
    float rate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + slots.part * STATES + i] : 0;
            h[c][i] = 0;
        }

    Reals<SHARE> next_bc = {};
    Pack next_x = {}, next_dt = {};
    int next_pixel = 0;
    const auto fetch = [&](int l) {
        if (l >= place.length) return;
        next_pixel = place.pixel(l);
        if (inside) {
            next_x = *reinterpret_cast<const Pack*>(x_here + next_pixel * channels);
            next_dt = *reinterpret_cast<const Pack*>(dt_here + next_pixel * channels);
        }
        next_bc = *reinterpret_cast<const Reals<SHARE>*>(bc + place.inputs(next_pixel) + share);
    };
    fetch(row);
    __syncthreads();
    for (int start = 0; start < place.length; start += TILE) {
        const int l = start + row, pixel = next_pixel;
        const Pack here = next_x;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const float delta = l < place.length ? softplus(wide(next_dt.at[i]) + offset[column + i]) : 0;
            steps[row][column + i] = make_float2(delta, delta * wide(here.at[i]));
        }
#pragma unroll
        for (int i = 0; i < SHARE; i++) inputs[row][share + i] = wide(next_bc.at[i]);
        __syncthreads();
        fetch(l + TILE);
        if (states != nullptr && start % STRIDE == 0) {
            const size_t chunk = static_cast<size_t>(place.sequence) * chunks + start / STRIDE;
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) {
                if (!place.has(slots.channel(c))) continue;
                Reals<STATES> pack;
#pragma unroll
                for (int i = 0; i < STATES; i++) narrow(h[c][i], pack.at[i]);
                const size_t at = (chunk * channels + place.first + slots.channel(c)) * N + slots.part * STATES;
                *reinterpret_cast<Reals<STATES>*>(states + at) = pack;
            }
        }
#pragma unroll 2
        for (int batch = 0; batch < TILE; batch += BATCH) {
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
        __syncthreads();
        if (l < place.length && inside) {
            Pack pack;
#pragma unroll
            for (int i = 0; i < PACK; i++)
                narrow(fmaf(skip[column + i], wide(here.at[i]), outputs[row][column + i]), pack.at[i]);
            *reinterpret_cast<Pack*>(y_here + pixel * channels) = pack;
        }
    }
}
