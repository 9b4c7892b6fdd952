// The forward scan. See ss2d.cuh. Warps go their own ways: each brings what it needs into its part of shared memory.

constexpr int WARPS = THREADS / 32;
constexpr int HALF = N;                         // of a step's B and C: what one of two lanes brings

// states may be null. weight is not read where RANK is 0.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) ss2d_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ low, const REAL* __restrict__ weight,
    const REAL* __restrict__ bc, const float* __restrict__ A2, const float* __restrict__ bias,
    const float* __restrict__ D, REAL* __restrict__ y, REAL* __restrict__ states, int stride, int tasks, int images,
    int height, int width, int channels) {
    alignas(16) __shared__ float2 steps[STRIDE][ROW];  // delta, delta x
    alignas(16) __shared__ float all_inputs[WARPS][STRIDE][2 * N];
    alignas(16) __shared__ float outputs[WARPS][STRIDE][8 * CHANNELS];
    const Place place(images, height, width, channels);
    const Slots slots;
    const Share share;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp * 8 * CHANNELS;
    auto& inputs = all_inputs[warp];
    const bool inside = place.has(share.column);
    const int column = inside ? share.column : 0;  // what is read
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const REAL* const x_here = x + place.origin(place.map) + column;
    REAL* const y_here = y + place.origin(result) + column;

    float skip[SPAN];
#pragma unroll
    for (int i = 0; i < SPAN; i++) skip[i] = D[place.parameter(column + i)];
    float rate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + slots.part * STATES + i] : 0;
            h[c][i] = 0;
        }

    TimeSteps time(place, share, low, weight, bias, stride, channels);
    Span next_x[2];
    Reals<HALF> next_bc;
    int next_pixels[2];
    const auto fetch = [&](int start) {
        const int pixel = place.pixel(start + lane % STRIDE);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            next_pixels[i] = __shfl_sync(ALL, pixel, share.g + 8 * i);
            next_x[i] = *reinterpret_cast<const Span*>(x_here + next_pixels[i] * channels);
        }
        time.fetch(next_pixels);
        const size_t at = place.inputs(__shfl_sync(ALL, pixel, lane / 2), stride) + lane % 2 * HALF;
        next_bc = *reinterpret_cast<const Reals<HALF>*>(bc + at);
    };
    fetch(0);
    for (int start = 0; start < place.length; start += STRIDE) {
        const Span here[2] = {next_x[0], next_x[1]};
        const int pixels[2] = {next_pixels[0], next_pixels[1]};
        const bool real[2] = {start + share.g < place.length, start + share.g + 8 < place.length};
        float delta[2][SPAN];
        time.take(real, delta);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int c = 0; c < SPAN; c += 2)
                *reinterpret_cast<float4*>(&steps[share.g + 8 * i][share.column + c]) = make_float4(
                    delta[i][c], delta[i][c] * here[i][c], delta[i][c + 1], delta[i][c + 1] * here[i][c + 1]);
#pragma unroll
        for (int i = 0; i < HALF; i += 4)
            *reinterpret_cast<float4*>(&inputs[lane / 2][lane % 2 * HALF + i]) =
                make_float4(next_bc[i], next_bc[i + 1], next_bc[i + 2], next_bc[i + 3]);
        __syncwarp();
        fetch(start + STRIDE);
        if (states != nullptr) {
            REAL* const to = states + place.states(start / STRIDE);
#pragma unroll
            for (int c = 0; c < CHANNELS; c++) {
                Reals<STATES> pack;
#pragma unroll
                for (int i = 0; i < STATES; i += 2) pack.put(i, h[c][i], h[c][i + 1]);
                *reinterpret_cast<Reals<STATES>*>(to + c * THREADS * STATES) = pack;
            }
        }
#pragma unroll 2
        for (int batch = 0; batch < STRIDE; batch += BATCH) {
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
            outputs[warp][batch + own_step(slots.part)][slots.own - first] = sum_over_parts(sums, slots.part);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float* const sum = &outputs[warp][share.g + 8 * i][share.column - first];
            Span pack;
#pragma unroll
            for (int c = 0; c < SPAN; c += 2)
                pack.put(c, fmaf(skip[c], here[i][c], sum[c]), fmaf(skip[c + 1], here[i][c + 1], sum[c + 1]));
            if (real[i] && inside) *reinterpret_cast<Span*>(y_here + pixels[i] * channels) = pack;
        }
    }
}
