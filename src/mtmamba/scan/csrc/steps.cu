// What comes between scans: sums of shares of a gradient, from the order of a walk's steps to that of pixels, and the
// states that segments begin with. See ss2d.cuh.

constexpr int PACK = 8;                         // neighbours that travel together
using Pack = Reals<PACK>;

// maps (T, B, L, stride) get, at each step's pixel, in the direction's columns, the sum of `count` parts
// (count, T, K, B, here, columns).
extern "C" __global__ void __launch_bounds__(THREADS) sum_of_steps(
    const REAL* __restrict__ parts, REAL* __restrict__ maps, const int* __restrict__ order, int count, int columns,
    int stride, int all, int first, int here, int images, int length) {
    const int packs = columns / PACK, number = blockIdx.x * THREADS + threadIdx.x;
    const int image = blockIdx.y % images, pair = blockIdx.y / images;
    const int direction = pair % DIRECTIONS, task = pair / DIRECTIONS;
    if (number >= here * packs) return;
    const int pixel = order[direction * all + first + number / packs];
    if (pixel < 0) return;
    const size_t sequence = static_cast<size_t>(here) * packs, size = gridDim.y * sequence;
    float sum[PACK] = {};
    for (int i = 0; i < count; i++) {
        const Pack part = reinterpret_cast<const Pack*>(parts)[i * size + blockIdx.y * sequence + number];
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] += part[j];
    }
    Pack total;
#pragma unroll
    for (int j = 0; j < PACK; j += 2) total.put(j, sum[j], sum[j + 1]);
    const size_t row = static_cast<size_t>(task * images + image) * length + pixel;
    *reinterpret_cast<Pack*>(maps + row * stride + direction * columns + number % packs * PACK) = total;
}

// Make the states that segments begin with out of those that each ends with by itself: see ss2d_forward. One thread for
// each state of a channel; `all` channels, of all sequences.
extern "C" __global__ void __launch_bounds__(THREADS) carry_over(
    float* __restrict__ starts, const float* __restrict__ lapses, const float* __restrict__ A2, int number, int segments,
    int images, int channels, int all) {
    const int state = blockIdx.x * THREADS + threadIdx.x, channel = state / N;
    if (channel >= all) return;
    const size_t place = static_cast<size_t>(all) * N;
    const float rate = A2[(channel / channels / images * channels + channel % channels) * N + state % N];
    float h = number > 0 ? starts[number * place + state] : 0;
#pragma unroll 8
    for (int i = number; i < number + segments; i++) {
        h = fmaf(exp2_fast(rate * lapses[static_cast<size_t>(i) * all + channel]), h, starts[(i + 1) * place + state]);
        starts[(i + 1) * place + state] = h;
    }
}
