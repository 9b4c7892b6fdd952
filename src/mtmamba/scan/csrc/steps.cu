// Sums of shares of a gradient, from the order of a walk's steps to that of pixels. See ss2d.cuh.

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
