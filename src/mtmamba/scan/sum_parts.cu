// Sums of the directions' results, and of the blocks' shares of a gradient. See ss2d.cuh.

constexpr int PACK = 8;                         // neighbours that travel together

// out[row][column] = sum over i < count of parts[i][row][column], rows of `out` being `stride` apart.
extern "C" __global__ void __launch_bounds__(THREADS) sum_parts(
    const REAL* __restrict__ parts, REAL* __restrict__ out, int count, int rows, int columns, int stride) {
    const size_t packs = static_cast<size_t>(rows) * columns / PACK;
    const size_t pack = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (pack >= packs) return;
    float sum[PACK] = {};
    for (int i = 0; i < count; i++) {
        const Reals<PACK> part = reinterpret_cast<const Reals<PACK>*>(parts)[i * packs + pack];
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] += part[j];
    }
    Reals<PACK> total;
#pragma unroll
    for (int j = 0; j < PACK; j += 2) total.put(j, sum[j], sum[j + 1]);
    const size_t row = pack * PACK / columns, column = pack * PACK % columns;
    *reinterpret_cast<Reals<PACK>*>(out + row * stride + column) = total;
}
