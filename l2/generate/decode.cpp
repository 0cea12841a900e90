// Decoding one token a row on a CPU: the parts at which torch is slow. kernels.py compiles and calls them.
//
// - `norm`: torch makes six small operations of it.
// - `attend`: one query against hundreds of keys, a few queries sharing each key, suits no matrix product. Here a thread
//   takes one key/value head of one row, turns the new key and the queries by their angles (Su et al. 2021), writes key
//   and value into the cache and reads each cached number once for all queries that share it.
// - `step_row`: the whole model for a single row, where every product is one walk through a weight matrix and calling
//   torch for each would take longer than the walk.
//
// Compiled for one shape: SCALAR (float or bf16), HEAD_DIM, GROUP (query heads that share a key/value head).

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

using std::int64_t;

struct bf16 {
    std::uint16_t bits;
    operator float() const {
        std::uint32_t wide = std::uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
    bf16() = default;
    bf16(float value) {  // to nearest, ties to even, as torch does
        std::uint32_t wide;
        std::memcpy(&wide, &value, 4);
        bits = std::isnan(value) ? 0x7fc0 : (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    }
};

constexpr int C = HEAD_DIM, G = GROUP;
static_assert(C % 2 == 0);

// e^x for x <= 0, to 2e-6 of itself; the library's is called for one number at a time. NaN stays NaN.
// x = n ln 2 + t with |t| <= ln 2 / 2, then the Taylor series of e^t times 2^n.
static inline float exponential(float x) {
    x = x < -87 ? -87 : x;
    float n = std::rint((x == x ? x : 0) * 1.44269504f), t = x - n * 0.693147181f;
    float series = 1 + t * (1 + t * (1 / 2.f + t * (1 / 6.f + t * (1 / 24.f + t * (1 / 120.f + t * (1 / 720.f))))));
    std::uint32_t bits = std::uint32_t(std::int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return series * power;
}

// x / (1 + e^-x), of which e^-|x| is all that is needed
static inline float silu(float x) {
    float small = exponential(-std::abs(x));
    return x * (x < 0 ? small : 1) / (1 + small);
}

// x · cos + (-x2, x1) · sin for the halves x1, x2 of x
template <typename X, typename Y>
static void rotate(const X* x, const float* cos, const float* sin, float scale, Y* out) {
    for (int i = 0; i < C / 2; i++) {
        float first = x[i], second = x[i + C / 2];
        out[i] = (first * cos[i] - second * sin[i]) * scale;
        out[i + C / 2] = (second * cos[i] + first * sin[i]) * scale;
    }
}

template <typename X>
static void norm_rows(const X* x, const SCALAR* weight, X* out, int64_t rows, int64_t dim, float eps) {
    for (int64_t row = 0; row < rows; row++, x += dim, out += dim) {
        float squares = 0;
        for (int64_t i = 0; i < dim; i++) squares += float(x[i]) * float(x[i]);
        float scale = 1 / std::sqrt(squares / dim + eps);
        for (int64_t i = 0; i < dim; i++) out[i] = float(x[i]) * scale * float(weight[i]);
    }
}

// qkv [rows, (heads + 2 kv_heads) · C]; cos, sin [positions, C / 2]; k, v [.., kv_heads, slots, C], where row r holds
// lengths[r] tokens before the call and one more after it; out [rows, heads · C].
template <typename X>
static void attend_rows(const X* qkv, const float* cos, const float* sin, SCALAR* k, SCALAR* v, const int64_t* lengths,
                        X* out, int64_t rows, int64_t kv_heads, int64_t slots, int threads) {
    const int64_t heads = kv_heads * G;
    const float scale = 1 / std::sqrt(float(C));
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> weights(slots * G);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < rows * kv_heads; unit++) {
            const int64_t row = unit / kv_heads, head = unit % kv_heads, last = lengths[row];
            const float *cosines = cos + last * (C / 2), *sines = sin + last * (C / 2);
            const X* query = qkv + row * (heads + 2 * kv_heads) * C + head * G * C;
            const X* key = qkv + (row * (heads + 2 * kv_heads) + heads + head) * C;
            SCALAR *keys = k + unit * slots * C, *values = v + unit * slots * C;
            rotate(key, cosines, sines, 1, keys + last * C);
            for (int i = 0; i < C; i++) values[last * C + i] = float(key[kv_heads * C + i]);

            float q[G][C], most[G], sum[G] = {}, mixed[G][C] = {};
            for (int g = 0; g < G; g++) {
                rotate(query + g * C, cosines, sines, scale, q[g]);
                most[g] = -std::numeric_limits<float>::infinity();
            }
            for (int64_t slot = 0; slot <= last; slot++) {
                float wide[C];
                for (int i = 0; i < C; i++) wide[i] = keys[slot * C + i];
                for (int g = 0; g < G; g++) {
                    float score = 0;
                    for (int i = 0; i < C; i++) score += q[g][i] * wide[i];
                    weights[g * slots + slot] = score;
                    most[g] = score > most[g] ? score : most[g];
                }
            }
            for (int g = 0; g < G; g++) {
                float total = 0, *weight = &weights[g * slots];
                for (int64_t slot = 0; slot <= last; slot++) {
                    weight[slot] = exponential(weight[slot] - most[g]);
                    total += weight[slot];
                }
                sum[g] = total;
            }
            for (int64_t slot = 0; slot <= last; slot++) {
                float wide[C];
                for (int i = 0; i < C; i++) wide[i] = values[slot * C + i];
                for (int g = 0; g < G; g++)
                    for (int i = 0; i < C; i++) mixed[g][i] += weights[g * slots + slot] * wide[i];
            }
            for (int g = 0; g < G; g++)
                for (int i = 0; i < C; i++) out[((row * kv_heads + head) * G + g) * C + i] = mixed[g][i] / sum[g];
        }
    }
}

// out[o] = x · weight[o], added to what is there if `add`
static void product(const SCALAR* weight, const float* x, float* out, int64_t inputs, int64_t outputs, bool add,
                    int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        float sum = 0;
        for (int64_t i = 0; i < inputs; i++) sum += x[i] * float(weight[o * inputs + i]);
        out[o] = add ? out[o] + sum : sum;
    }
}

extern "C" void norm(const SCALAR* x, const SCALAR* weight, SCALAR* out, int64_t rows, int64_t dim, float eps) {
    norm_rows(x, weight, out, rows, dim, eps);
}

extern "C" void attend(const SCALAR* qkv, const float* cos, const float* sin, SCALAR* k, SCALAR* v,
                       const int64_t* lengths, SCALAR* out, int64_t rows, int64_t kv_heads, int64_t slots,
                       int threads) {
    attend_rows(qkv, cos, sin, k, v, lengths, out, rows, kv_heads, slots, threads);
}

// The weights of a layer as [outputs, inputs], and where its keys and values stand, [kv_heads, slots, C] for the row.
struct Layer {
    const SCALAR *norm, *q, *k, *v, *out, *mlp_norm, *gate, *up, *down;
    SCALAR *keys, *values;
};

// Writes a token at position `length`; x [dim] is its embedding and is overwritten, logits [vocab].
extern "C" void step_row(const Layer* layers, const SCALAR* last_norm, const SCALAR* head, const float* cos,
                         const float* sin, float* x, float* logits, int64_t length, int64_t n_layers, int64_t dim,
                         int64_t kv_heads, int64_t ffn, int64_t vocab, int64_t slots, float eps, int threads) {
    const int64_t wide = kv_heads * G * C, narrow = kv_heads * C;
    std::vector<float> h(dim), qkv(wide + 2 * narrow), mixed(wide), gate(ffn), up(ffn);
    for (const Layer* layer = layers; layer < layers + n_layers; layer++) {
        norm_rows(x, layer->norm, h.data(), 1, dim, eps);
        product(layer->q, h.data(), qkv.data(), dim, wide, false, threads);
        product(layer->k, h.data(), qkv.data() + wide, dim, narrow, false, threads);
        product(layer->v, h.data(), qkv.data() + wide + narrow, dim, narrow, false, threads);
        attend_rows(qkv.data(), cos, sin, layer->keys, layer->values, &length, mixed.data(), 1, kv_heads, slots,
                    threads);
        product(layer->out, mixed.data(), x, wide, dim, true, threads);
        norm_rows(x, layer->mlp_norm, h.data(), 1, dim, eps);
        product(layer->gate, h.data(), gate.data(), dim, ffn, false, threads);
        product(layer->up, h.data(), up.data(), dim, ffn, false, threads);
        for (int64_t i = 0; i < ffn; i++) up[i] *= silu(gate[i]);
        product(layer->down, up.data(), x, ffn, dim, true, threads);
    }
    norm_rows(x, last_norm, h.data(), 1, dim, eps);
    product(head, h.data(), logits, dim, vocab, false, threads);
}
