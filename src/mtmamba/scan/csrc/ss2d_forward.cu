// The forward scan. See ss2d.cuh.

constexpr int TILE = WIDTH < 64 ? 32 : 16;      // steps whose inputs are in shared memory
constexpr int PIECE = 16;                       // of those: steps that are walked in one straight line
constexpr int VISITS = TILE / ROWS;             // of a tile's rows: how often a thread brings a quad
constexpr int BC_VISITS = TILE / BC_ROWS;       // the same for B and C
constexpr int Y_ROW = WIDTH + (BATCH > 1 ? 32 / BATCH : 0);  // rows of y are padded against bank conflicts

// Where B or C of a state lies in its row: two by two, in turn for each part, as threads read them (128 bits at a time
// would keep the shared memory four times as busy, however few addresses differ).
__device__ constexpr int in_turn(int state) { return state % STATES / 2 * (2 * PARTS) + state / STATES * 2 + state % 2; }

struct Tile {
    Row steps[TILE];                            // delta, delta x
    alignas(16) float inputs[TILE][2][N];
    alignas(16) float outputs[TILE][Y_ROW];
    // What each thread will bring to the next tile, copied here by itself meanwhile.
    struct {
        Quad x[VISITS][THREADS], dt[VISITS][THREADS], bc[BC_VISITS][THREADS];
    } next;
    Quad earlier[VISITS][THREADS];              // what this tile's results are added to
    int pixels[4][TILE];                        // of the steps of this tile and of those to come
};
DYNAMIC_SHARED(Tile);

// dt: time steps before bias and softplus. rows, columns: sums of their directions' results, to which this stretch
// adds (or not yet). states may be null.
extern "C" __global__ void __launch_bounds__(THREADS, PARTS == 2 ? 3 : 4) ss2d_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ dt, const REAL* __restrict__ bc,
    const float* __restrict__ A2, const float* __restrict__ bias, const float* __restrict__ D,
    REAL* __restrict__ rows, REAL* __restrict__ columns, REAL* __restrict__ states, float* __restrict__ carry,
    const int* __restrict__ order, int bc_stride, int all, int first, int here, int adds, int tasks, int images,
    int length, int channels) {
    Tile& tile = *reinterpret_cast<Tile*>(shared_memory);
    const Place place(images, length, channels);
    const Slots slots;
    const int row0 = threadIdx.x / QUADS, quad = threadIdx.x % QUADS * 4;
    const int bc_row = threadIdx.x / (2 * N / 4), bc_column = threadIdx.x % (2 * N / 4) * 4;
    const int bc_place = in_turn(bc_column % N);
    const bool inside = place.has(quad);
    const int column = inside ? quad : 0;       // what is read
    const int end = first + here;
    const unsigned row_bytes = channels * sizeof(REAL), bc_bytes = bc_stride * sizeof(REAL);
    const char* const x_here = reinterpret_cast<const char*>(x + place.origin(place.map, length) + column);
    const char* const dt_here = reinterpret_cast<const char*>(dt + place.origin(place.sequence, here) + column);
    REAL* const y = place.direction & 1 ? columns : rows;
    char* const y_here = reinterpret_cast<char*>(y + place.origin(place.map, length) + column);
    const char* const bc_here = reinterpret_cast<const char*>(bc + place.inputs(bc_stride) + bc_column);

    float offset[4], skip[4], rate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int i = 0; i < 4; i++) offset[i] = bias[place.parameter(column + i)], skip[i] = D[place.parameter(column + i)];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c), state = slots.part * STATES + i;
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + state] : 0;
            h[c][i] = place.has(channel) ? carry[place.channel(channel) * N + state] : 0;
        }

    const bool saves = states != nullptr && place.has(slots.own);
    REAL* saved = states + place.states(first / STRIDE, all, slots.own) + slots.part * STATES;
    int next_pixels[VISITS];
    const auto table = [&](int start) -> int* { return tile.pixels[start / TILE & 3]; };
    const auto locate = [&](int start) {
        if (threadIdx.x < TILE && start < end)
            copy_later(table(start)[threadIdx.x], order[place.direction * all + start + threadIdx.x]);
    };
    const auto fetch = [&](int start) {
        const int* const pixels = table(start);
        unsigned from[VISITS], bc_from[BC_VISITS];
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            next_pixels[i] = pixels[row0 + i * ROWS];
            from[i] = max(next_pixels[i], 0) * row_bytes;
        }
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++) bc_from[i] = max(pixels[bc_row + i * BC_ROWS], 0) * bc_bytes;
        const unsigned dt_from = (start - first + row0) * row_bytes;
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            copy_later(tile.next.x[i][threadIdx.x], at<Quad>(x_here, from[i]));
            copy_later(tile.next.dt[i][threadIdx.x], at<Quad>(dt_here, dt_from + i * ROWS * row_bytes));
        }
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++) copy_later(tile.next.bc[i][threadIdx.x], at<Quad>(bc_here, bc_from[i]));
    };
    struct Inputs {
        float2 steps[CHANNELS], b[STATES / 2], c[STATES / 2];
    };
    const auto read = [&](int l) {
        Inputs in;
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) in.steps[c] = tile.steps[l].both[slots.index[c]];
#pragma unroll
        for (int i = 0; i < STATES / 2; i++) {
            in.b[i] = *reinterpret_cast<const float2*>(&tile.inputs[l][0][(i * PARTS + slots.part) * 2]);
            in.c[i] = *reinterpret_cast<const float2*>(&tile.inputs[l][1][(i * PARTS + slots.part) * 2]);
        }
        return in;
    };
#pragma unroll
    for (int i = 0; i < VISITS; i++) tile.earlier[i][threadIdx.x] = Quad{};
    locate(first);
    wait_for_copies();
    __syncthreads();
    fetch(first);
    locate(first + TILE);
    for (int start = first; start < end; start += TILE) {
        int pixels[VISITS];
        Quad signal[VISITS];
        wait_for_copies();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const int row = row0 + i * ROWS;
            const Quad dt = tile.next.dt[i][threadIdx.x];
            signal[i] = tile.next.x[i][threadIdx.x], pixels[i] = next_pixels[i];
            const float stopped = stop(pixels[i]);
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                float4 two;
                two.x = softplus(dt[j] + (offset[j] + stopped)), two.y = two.x * signal[i][j];
                two.z = softplus(dt[j + 1] + (offset[j + 1] + stopped)), two.w = two.z * signal[i][j + 1];
                tile.steps[row].half(quad, j / 2) = two;
            }
        }
#pragma unroll
        for (int i = 0; i < BC_VISITS; i++) {
            const Quad bc = tile.next.bc[i][threadIdx.x];
            float* const to = tile.inputs[bc_row + i * BC_ROWS][bc_column / N] + bc_place;
#pragma unroll
            for (int j = 0; j < 4; j += 2)
                *reinterpret_cast<float2*>(to + in_turn(j)) = make_float2(bc[j], bc[j + 1]);
        }
        __syncthreads();
        if (adds)
#pragma unroll
            for (int i = 0; i < VISITS; i++)
                copy_later(tile.earlier[i][threadIdx.x], at<Quad>(y_here, max(pixels[i], 0) * row_bytes));
        if (start + TILE < end) fetch(start + TILE);
        locate(start + 2 * TILE);
#pragma unroll 1
        for (int piece = 0; piece < TILE; piece += PIECE) {
            if (saves && (start + piece) % STRIDE == 0) {
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    Reals<STATES> pack;
#pragma unroll
                    for (int i = 0; i < STATES; i += 2) pack.put(i, h[c][i], h[c][i + 1]);
                    *reinterpret_cast<Reals<STATES>*>(saved + (slots.channel(c) - slots.own) * N) = pack;
                }
                saved += channels * N;
            }
            Inputs in = read(piece);
#pragma unroll
            for (int batch = piece; batch < piece + PIECE; batch += BATCH) {
                float sums[BATCH][CHANNELS];
#pragma unroll
                for (int s = 0; s < BATCH; s++) {
                    const Inputs now = in;
                    in = read(min(batch + s + 1, TILE - 1));
#pragma unroll
                    for (int c = 0; c < CHANNELS; c++) {
                        sums[s][c] = 0;
#pragma unroll
                        for (int i = 0; i < STATES; i++) {
                            const float b = i % 2 ? now.b[i / 2].y : now.b[i / 2].x;
                            const float out = i % 2 ? now.c[i / 2].y : now.c[i / 2].x;
                            h[c][i] = fmaf(exp2_fast(now.steps[c].x * rate[c][i]), h[c][i], now.steps[c].y * b);
                            sums[s][c] = fmaf(h[c][i], out, sums[s][c]);
                        }
                    }
                }
                tile.outputs[batch + own_step(slots.part)][slots.own] = sum_over_parts(sums, slots.part);
            }
        }
        __syncthreads();
        wait_for_copies();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const float4 sum = *reinterpret_cast<const float4*>(&tile.outputs[row0 + i * ROWS][quad]);
            const Quad other = tile.earlier[i][threadIdx.x];
            Quad result;
            result.put(0, fmaf(skip[0], signal[i][0], sum.x + other[0]), fmaf(skip[1], signal[i][1], sum.y + other[1]));
            result.put(2, fmaf(skip[2], signal[i][2], sum.z + other[2]), fmaf(skip[3], signal[i][3], sum.w + other[3]));
            const unsigned to = max(pixels[i], 0) * row_bytes;
            if (pixels[i] >= 0 && inside) at<Quad>(y_here, to) = result;
        }
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c), state = slots.part * STATES + i;
            if (place.has(channel)) carry[place.channel(channel) * N + state] = h[c][i];
        }
}
