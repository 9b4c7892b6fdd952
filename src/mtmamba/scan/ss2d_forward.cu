// The forward scan. See ss2d.cuh.

constexpr int TILE = WIDTH < 64 ? 32 : 16;      // steps whose inputs are in shared memory
constexpr int VISITS = TILE / ROWS;             // of a tile's rows: how often a thread brings a quad
constexpr int SHARE = TILE * 2 * N / THREADS;   // of a tile's B and C: what each thread brings
constexpr int Y_ROW = WIDTH + (BATCH > 1 ? 32 / BATCH : 0);  // rows of y are padded against bank conflicts

// Where B or C of a state lies in its row: two by two, in turn for each part, as threads read them (128 bits at a time
// would keep the shared memory four times as busy, however few addresses differ).
__device__ constexpr int in_turn(int state) { return state % STATES / 2 * (2 * PARTS) + state / STATES * 2 + state % 2; }

// y (K, T, B, L, E): each direction's own result. dt (T, K, B, L, E): time steps before bias and softplus. states may
// be null.
extern "C" __global__ void __launch_bounds__(THREADS, PARTS == 2 ? 3 : 4) ss2d_forward(
    const REAL* __restrict__ x, const REAL* __restrict__ dt, const REAL* __restrict__ bc,
    const float* __restrict__ A2, const float* __restrict__ bias, const float* __restrict__ D,
    REAL* __restrict__ y, REAL* __restrict__ states, int bc_stride, int tasks, int images, int height, int width,
    int channels) {
    __shared__ Row steps[TILE];                 // delta, delta x
    alignas(16) __shared__ float inputs[TILE][2][N];
    alignas(16) __shared__ float outputs[TILE][Y_ROW];
    __shared__ int pixels[4][TILE];             // of the steps of this tile and of those to come
    const Place place(images, height, width, channels);
    const Slots slots;
    const int row0 = threadIdx.x / QUADS, quad = threadIdx.x % QUADS * 4;
    const int bc_row = threadIdx.x / (2 * N / SHARE), bc_column = threadIdx.x % (2 * N / SHARE) * SHARE;
    const int bc_place = in_turn(bc_column % N);
    const bool inside = place.has(quad);
    const int column = inside ? quad : 0;       // what is read
    const int result = (place.direction * tasks + place.task) * images + place.image;
    const unsigned row_bytes = channels * sizeof(REAL), bc_bytes = bc_stride * sizeof(REAL);
    const char* const x_here = reinterpret_cast<const char*>(x + place.origin(place.map) + column);
    const char* const dt_here = reinterpret_cast<const char*>(dt + place.origin(place.sequence) + column);
    char* const y_here = reinterpret_cast<char*>(y + place.origin(result) + column);
    const char* const bc_here = reinterpret_cast<const char*>(bc + place.inputs(0, bc_stride) + bc_column);

    float offset[4], skip[4], rate[CHANNELS][STATES], h[CHANNELS][STATES];
#pragma unroll
    for (int i = 0; i < 4; i++) offset[i] = bias[place.parameter(column + i)], skip[i] = D[place.parameter(column + i)];
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
#pragma unroll
        for (int i = 0; i < STATES; i++) {
            const int channel = slots.channel(c);
            rate[c][i] = place.has(channel) ? A2[place.parameter(channel) * N + slots.part * STATES + i] : 0;
            h[c][i] = 0;
        }

    const bool saves = states != nullptr && place.has(slots.own);
    REAL* saved = states + place.states(0, slots.own) + slots.part * STATES;
    Reals<SHARE> next_bc;
    Quad next_x[VISITS], next_dt[VISITS];
    const auto locate = [&](int start) {
        if (threadIdx.x < TILE) pixels[start / TILE % 4][threadIdx.x] = place.pixel(start + threadIdx.x);
    };
    const auto fetch = [&](int start) {
        const int* const here = pixels[start / TILE % 4];
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const unsigned bytes = here[row0 + i * ROWS] * row_bytes;
            next_x[i] = at<Quad>(x_here, bytes);
            next_dt[i] = at<Quad>(dt_here, bytes);
        }
        next_bc = at<Reals<SHARE>>(bc_here, here[bc_row] * bc_bytes);
    };
    struct Inputs {
        float2 steps[CHANNELS], b[STATES / 2], c[STATES / 2];
    };
    const auto read = [&](int l) {
        Inputs in;
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) in.steps[c] = steps[l].both[slots.index[c]];
#pragma unroll
        for (int i = 0; i < STATES / 2; i++) {
            in.b[i] = *reinterpret_cast<const float2*>(&inputs[l][0][(i * PARTS + slots.part) * 2]);
            in.c[i] = *reinterpret_cast<const float2*>(&inputs[l][1][(i * PARTS + slots.part) * 2]);
        }
        return in;
    };
    locate(0);
    __syncthreads();
    fetch(0);
    locate(TILE);
    for (int start = 0; start < place.length; start += TILE) {
        Quad here[VISITS];
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            here[i] = next_x[i];
            const int row = row0 + i * ROWS;
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                float4 two;
                two.x = place.delta(start + row, next_dt[i][j], offset[j]), two.y = two.x * here[i][j];
                two.z = place.delta(start + row, next_dt[i][j + 1], offset[j + 1]), two.w = two.z * here[i][j + 1];
                steps[row].half(quad, j / 2) = two;
            }
        }
        float* const bc_to = inputs[bc_row][bc_column / N] + bc_place;
#pragma unroll
        for (int i = 0; i < SHARE; i += 2)
            *reinterpret_cast<float2*>(bc_to + in_turn(i)) = make_float2(next_bc[i], next_bc[i + 1]);
        __syncthreads();
        fetch(start + TILE);
        locate(start + 2 * TILE);
#pragma unroll 1
        for (int stretch = 0; stretch < TILE; stretch += STRIDE) {
            if (saves && start + stretch < place.length) {
#pragma unroll
                for (int c = 0; c < CHANNELS; c++) {
                    Reals<STATES> pack;
#pragma unroll
                    for (int i = 0; i < STATES; i += 2) pack.put(i, h[c][i], h[c][i + 1]);
                    *reinterpret_cast<Reals<STATES>*>(saved + (slots.channel(c) - slots.own) * N) = pack;
                }
            }
            saved += channels * N;
            Inputs in = read(stretch);
#pragma unroll
            for (int batch = stretch; batch < stretch + STRIDE; batch += BATCH) {
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
                outputs[batch + own_step(slots.part)][slots.own] = sum_over_parts(sums, slots.part);
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < VISITS; i++) {
            const int row = row0 + i * ROWS;
            const unsigned bytes = pixels[start / TILE % 4][row] * row_bytes;
            const float4 sum = *reinterpret_cast<const float4*>(&outputs[row][quad]);
            Quad all;
            all.put(0, fmaf(skip[0], here[i][0], sum.x), fmaf(skip[1], here[i][1], sum.y));
            all.put(2, fmaf(skip[2], here[i][2], sum.z), fmaf(skip[3], here[i][3], sum.w));
            if (start + row < place.length && inside) at<Quad>(y_here, bytes) = all;
        }
    }
}
