// What a transformer computes beside matrix products, forwards and backwards, each in one walk through memory on a CPU;
// torch walks five to ten times. fused.py compiles and calls it. Numbers are SCALAR (float or bf16), sums are fp32.
//
// Letters: B batch, T positions, K key/value heads, G query heads that share each, C channels of a head, D model width,
// V vocabulary, N rows. Threads share out rows in order, so that the same number of threads gives the same bits.

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "scalars.h"

using std::int64_t;

// 1 / (1 + e^-x), of which e^-|x| is all that is needed
static inline float sigmoid(float x) {
    float small = exponential(-std::abs(x));
    return (x < 0 ? small : 1) / (1 + small);
}

// x · cos + way · (-x2, x1) · sin for the halves x1, x2 of x [C], times scale; without angles x times scale
template <class From>
static void turn(const From* __restrict x, const float* __restrict cos, const float* __restrict sin, float way,
                 float scale, SCALAR* __restrict out, int64_t C) {
    if (!cos) {
        for (int64_t i = 0; i < C; i++) out[i] = float(x[i]) * scale;
        return;
    }
    for (int64_t i = 0; i < C / 2; i++) {
        float first = x[i], second = x[i + C / 2], side = way * sin[i];
        out[i] = (first * cos[i] - second * side) * scale;
        out[i + C / 2] = (second * cos[i] + first * side) * scale;
    }
}

// Products of matrices that stay in the cache. A word is what a product takes in at once along the dimension that it
// sums over: one float, or two bf16 of neighbours. WIDE words are a register; a tile is TALL rows of two of them.
#ifdef __AVX512F__
constexpr int64_t WIDE = 16, TALL = 8;
#else
constexpr int64_t WIDE = 8, TALL = 4;
#endif
constexpr int64_t PANEL = 2 * WIDE, ROWS = 32, WORD = 4 / sizeof(SCALAR);
typedef std::uint32_t Word __attribute__((may_alias));
typedef float Floats __attribute__((vector_size(4 * WIDE)));
typedef std::uint32_t Words __attribute__((vector_size(4 * WIDE)));

template <class Vector>
static inline Vector read(const void* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

static inline void write(float* to, Floats x) { std::memcpy(to, &x, sizeof x); }

static inline Floats add_product(Floats sum, Words a, Words b) {
    if (WORD == 1) return sum + (Floats)a * (Floats)b;
#if defined(__AVX512BF16__) && defined(__AVX512F__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    Words high = Words{} + 0xffff0000u;
    return sum + (Floats)(a << 16) * (Floats)(b << 16) + (Floats)(a & high) * (Floats)(b & high);
#endif
}

// out [M, N] = or += A [M, L] · B [L, N] for M and N of whole tiles and L words. A's words are `down` apart from row to
// row and `along` within a row; B's panels of PANEL columns are `next` apart, and the rows of a panel `step`.
static void product(const Word* A, int64_t down, int64_t along, const Word* B, int64_t next, int64_t step, float* out,
                    int64_t width, int64_t M, int64_t N, int64_t L, bool add) {
    for (int64_t n = 0; n < N; n += PANEL, B += next)
        for (int64_t m = 0; m < M; m += TALL) {
            Floats left[TALL] = {}, right[TALL] = {};
            const Word* a = A + m * down;
            for (int64_t l = 0; l < L; l++) {
                Words first = read<Words>(B + l * step), second = read<Words>(B + l * step + WIDE);
#pragma GCC unroll 8
                for (int64_t i = 0; i < TALL; i++) {
                    Words all = Words{} + a[i * down + l * along];
                    left[i] = add_product(left[i], all, first);
                    right[i] = add_product(right[i], all, second);
                }
            }
            float* to = out + m * width + n;
#pragma GCC unroll 8
            for (int64_t i = 0; i < TALL; i++, to += width) {
                write(to, add ? left[i] + read<Floats>(to) : left[i]);
                write(to + WIDE, add ? right[i] + read<Floats>(to + WIDE) : right[i]);
            }
        }
}

static inline int64_t whole(int64_t size, int64_t part) { return (size + part - 1) / part * part; }

// A matrix in the cache, of lines that begin at addresses which registers like; zero at first.
template <class Number>
struct Matrix {
    struct alignas(64) Line {
        char bytes[64];
    };
    int64_t width;
    std::vector<Line> lines;
    Matrix(int64_t rows, int64_t width) : width(width), lines(whole(rows * width * sizeof(Number), 64) / 64) {}
    Number* row(int64_t i) { return (Number*)lines.data() + i * width; }
    Word* words(int64_t row = 0) { return (Word*)this->row(row); }
    int64_t down() { return width * sizeof(Number) / 4; }  // words from row to row
    void clear() { std::memset(lines.data(), 0, lines.size() * 64); }
};
typedef Matrix<SCALAR> Scalars;

// `count` rows of C numbers, `apart` in x, become the first of a matrix, turned and scaled where there are angles, row i
// by those of at[i] (null: i); the rest of `rows` is zero.
static void load(const SCALAR* x, int64_t apart, const float* cos, const float* sin, const int64_t* at, float scale,
                 int64_t count, int64_t rows, int64_t C, Scalars& out) {
    for (int64_t i = 0; i < count; i++)
        if (cos)
            turn(x + i * apart, cos + (at ? at[i] : i) * C, sin + (at ? at[i] : i) * C, 1, scale, out.row(i), C);
        else
            std::memcpy(out.row(i), x + i * apart, C * sizeof(SCALAR));
    std::memset(out.row(count), 0, (rows - count) * out.width * sizeof(SCALAR));
}

// The first `rows` of a matrix as the B of a product that sums over them: a word holds WORD neighbours of a column.
static void stack(Scalars& from, int64_t rows, int64_t columns, Scalars& out) {
    for (int64_t r = 0; r < rows; r += WORD) {
        if (WORD == 1) {
            std::memcpy(out.row(r), from.row(r), columns * sizeof(Word));
            continue;
        }
        auto upper = (const std::uint16_t*)from.row(r), lower = (const std::uint16_t*)from.row(r + 1);
        Word* to = out.words(r);
        for (int64_t i = 0; i < columns; i++) to[i] = upper[i] | Word(lower[i]) << 16;
    }
}

// The same as the B of a product with its transpose, in panels of PANEL rows, each [C / WORD, PANEL] words.
static void flip(Scalars& from, int64_t rows, int64_t C, Scalars& out) {
    for (int64_t r = 0; r < rows; r++) {
        const Word* row = from.words(r);
        Word* to = out.words() + r / PANEL * PANEL * (C / WORD) + r % PANEL;
        for (int64_t l = 0; l < C / WORD; l++) to[l * PANEL] = row[l];
    }
}

// The queries of a row of T positions: at all of them, or, where ends [B] tell how many there are up to each row's end,
// at some of all rows' positions [B, T], counted through, in order. They are rows begin .. begin + count of q.
struct Asked {
    int64_t begin, count, T;
    const int64_t* places;
    Asked(const int64_t* places, const int64_t* ends, int64_t b, int64_t T)
        : begin(!ends ? b * T : b ? ends[b - 1] : 0), count(ends ? ends[b] - begin : T), T(T), places(places) {}
    int64_t at(int64_t i) const { return places ? places[begin + i] % T : i; }
};

// What `count` queries from `q0` on see: keys from `first` on, `width` of them in whole blocks. Query r of them stands
// at[r] and sees keys from[r] .. at[r]: those of its document; or, in a row with a fork, all but fork[0] .. fork[1] from
// the latter on.
struct Seen {
    int64_t first, width, count, at[ROWS], from[ROWS];
    const int64_t* fork;
    Seen(const Asked& asked, const int64_t* positions, const int64_t* fork, int64_t q0)
        : first(asked.T), count(std::min(ROWS, asked.count - q0)), fork(fork) {
        int64_t end = 0;
        for (int64_t r = 0; r < count; r++) {
            at[r] = asked.at(q0 + r);
            from[r] = fork ? 0 : at[r] - positions[at[r]];
            first = std::min(first, from[r] / PANEL * PANEL);
            end = std::max(end, at[r] + 1);
        }
        width = whole(end, ROWS) - first;
    }
    void hide(Matrix<float>& scores) {  // first is 0 where there is a fork
        for (int64_t r = 0; fork && r < count; r++)
            if (at[r] >= fork[1])
                std::fill(scores.row(r) + fork[0], scores.row(r) + fork[1], -std::numeric_limits<float>::infinity());
    }
};

static inline void clear(SCALAR* row, int64_t from, int64_t to, int64_t width) {  // but for from .. to
    std::memset(row, 0, from * sizeof(SCALAR));
    std::memset(row + to, 0, (width - to) * sizeof(SCALAR));
}

// Weights of a row of scores, e^(score - most), zero but for from .. to; their sum. Returns the greatest score.
static float unscaled(float* __restrict scores, SCALAR* __restrict weights, int64_t from, int64_t to, int64_t width,
                      float* sum) {
    float most = -std::numeric_limits<float>::infinity(), total = 0;
#pragma omp simd reduction(max : most)
    for (int64_t s = from; s < to; s++) most = scores[s] > most ? scores[s] : most;
    for (int64_t s = from; s < to; s++) {
        scores[s] = exponential(scores[s] - most);
        total += scores[s];
    }
    for (int64_t s = from; s < to; s++) weights[s] = scores[s];
    clear(weights, from, to, width);
    *sum = total;
    return most;
}

extern "C" {

// Attention: out [Q, K, G, C] = softmax(q·k / √C) · v for queries of that shape and keys and values [B, T, K, C] as the
// projections give them, to be turned by the angles cos and sin [B, T, C]. Nobody sees past the start of its document,
// which positions [B, T] tell; fork [B, 2] (null: none) as in `Seen`; the queries, Q in all, at places [Q] (null: all,
// B · T) as in `Asked`. logs [Q, K, G] keeps log Σ e^score of each query.
void attention(const SCALAR* q, const SCALAR* k, const SCALAR* v, const float* cos, const float* sin,
               const int64_t* positions, const int64_t* fork, const int64_t* places, const int64_t* ends, SCALAR* out,
               float* logs, int64_t B, int64_t T, int64_t K, int64_t G, int64_t C, int threads) {
    int64_t S = whole(T, ROWS), N = whole(C, PANEL), L = C / WORD, wide = K * G * C;
#pragma omp parallel num_threads(threads)
    {
        Scalars plain(S, N), keys(S, C), values(S, N), queries(ROWS, N), weights(ROWS, S);
        Matrix<float> scores(ROWS, S), mixed(ROWS, N);
#pragma omp for schedule(dynamic)
        for (int64_t bk = 0; bk < B * K; bk++) {
            int64_t b = bk / K, kv = (b * T * K + bk % K) * C;
            const float *angles = cos + b * T * C, *sines = sin + b * T * C;
            Asked asked(places, ends, b, T);
            load(k + kv, K * C, angles, sines, nullptr, 1, T, S, C, plain);
            flip(plain, S, C, keys);
            load(v + kv, K * C, nullptr, sines, nullptr, 1, T, S, C, plain);
            stack(plain, S, N, values);
            for (int64_t g = 0; g < G; g++)
                for (int64_t q0 = 0; q0 < asked.count; q0 += ROWS) {
                    Seen seen(asked, positions + b * T, fork ? fork + b * 2 : nullptr, q0);
                    int64_t width = seen.width, head = bk % K * G + g, at = (asked.begin + q0) * wide + head * C;
                    load(q + at, wide, angles, sines, seen.at, 1 / std::sqrt(float(C)), seen.count, ROWS, C, queries);
                    product(queries.words(), queries.down(), 1, keys.words() + seen.first * L, PANEL * L, PANEL,
                            scores.row(0), S, ROWS, width, L, false);
                    seen.hide(scores);
                    float totals[ROWS];
                    for (int64_t r = 0; r < seen.count; r++) {
                        float most = unscaled(scores.row(r), weights.row(r), seen.from[r] - seen.first,
                                              seen.at[r] + 1 - seen.first, width, &totals[r]);
                        logs[(asked.begin + q0 + r) * K * G + head] = most + std::log(totals[r]);
                    }
                    product(weights.words(), weights.down(), 1, values.words(seen.first), PANEL, N, mixed.row(0), N, ROWS,
                            N, width / WORD, false);
                    for (int64_t r = 0; r < seen.count; r++)
                        turn<float>(mixed.row(r), nullptr, nullptr, 1, 1 / totals[r], out + at + r * wide, C);
                }
        }
    }
}

// The gradients of q, k and v; the weights are computed again, so that nothing of size T² is kept.
void attention_backward(const SCALAR* q, const SCALAR* k, const SCALAR* v, const float* cos, const float* sin,
                        const int64_t* positions, const int64_t* fork, const int64_t* places, const int64_t* ends,
                        const float* logs, const SCALAR* dout, SCALAR* dq, SCALAR* dk, SCALAR* dv, int64_t B, int64_t T,
                        int64_t K, int64_t G, int64_t C, int threads) {
    int64_t S = whole(T, ROWS), N = whole(C, PANEL), L = C / WORD, wide = K * G * C;
    float scale = 1 / std::sqrt(float(C));
#pragma omp parallel num_threads(threads)
    {
        Scalars plain(S, N), keys(S, C), keys_down(S, N), values(S, C);
        Scalars queries(ROWS, N), queries_down(ROWS, N), douts(ROWS, N), douts_down(ROWS, N);
        Scalars weights(ROWS, S), weights_down(ROWS, S), dscores(ROWS, S), dscores_down(ROWS, S);
        Matrix<float> scores(ROWS, S), dweights(ROWS, S), dqueries(ROWS, N), dkeys(S, N), dvalues(S, N);
#pragma omp for schedule(dynamic)
        for (int64_t bk = 0; bk < B * K; bk++) {
            int64_t b = bk / K, kv = (b * T * K + bk % K) * C;
            const float *angles = cos + b * T * C, *sines = sin + b * T * C;
            Asked asked(places, ends, b, T);
            load(v + kv, K * C, nullptr, sines, nullptr, 1, T, S, C, plain);
            flip(plain, S, C, values);
            load(k + kv, K * C, angles, sines, nullptr, 1, T, S, C, plain);
            flip(plain, S, C, keys);
            stack(plain, S, N, keys_down);
            dkeys.clear();
            dvalues.clear();
            for (int64_t g = 0; g < G; g++)
                for (int64_t q0 = 0; q0 < asked.count; q0 += ROWS) {
                    Seen seen(asked, positions + b * T, fork ? fork + b * 2 : nullptr, q0);
                    int64_t width = seen.width, head = bk % K * G + g, at = (asked.begin + q0) * wide + head * C;
                    load(q + at, wide, angles, sines, seen.at, scale, seen.count, ROWS, C, queries);
                    load(dout + at, wide, nullptr, sines, nullptr, 1, seen.count, ROWS, C, douts);
                    product(queries.words(), queries.down(), 1, keys.words() + seen.first * L, PANEL * L, PANEL,
                            scores.row(0), S, ROWS, width, L, false);
                    seen.hide(scores);
                    product(douts.words(), douts.down(), 1, values.words() + seen.first * L, PANEL * L, PANEL,
                            dweights.row(0), S, ROWS, width, L, false);
                    for (int64_t r = 0; r < ROWS; r++) {
                        SCALAR *w = weights.row(r), *dx = dscores.row(r);
                        if (r >= seen.count) {
                            clear(w, 0, 0, width);
                            clear(dx, 0, 0, width);
                            continue;
                        }
                        int64_t from = seen.from[r] - seen.first, to = seen.at[r] + 1 - seen.first;
                        float *x = scores.row(r), *dy_v = dweights.row(r), both = 0;
                        float log = logs[(asked.begin + q0 + r) * K * G + head];
                        for (int64_t s = from; s < to; s++) {
                            x[s] = exponential(x[s] - log);
                            both += x[s] * dy_v[s];
                        }
                        for (int64_t s = from; s < to; s++) w[s] = x[s];
                        for (int64_t s = from; s < to; s++) dx[s] = x[s] * (dy_v[s] - both);
                        clear(w, from, to, width);
                        clear(dx, from, to, width);
                    }
                    stack(queries, ROWS, N, queries_down);
                    stack(douts, ROWS, N, douts_down);
                    stack(weights, ROWS, width, weights_down);
                    stack(dscores, ROWS, width, dscores_down);
                    product(dscores.words(), dscores.down(), 1, keys_down.words(seen.first), PANEL, N, dqueries.row(0), N,
                            ROWS, N, width / WORD, false);
                    product(weights_down.words(), 1, S, douts_down.words(), PANEL, N, dvalues.row(seen.first), N, width, N,
                            ROWS / WORD, true);
                    product(dscores_down.words(), 1, S, queries_down.words(), PANEL, N, dkeys.row(seen.first), N, width, N,
                            ROWS / WORD, true);
                    for (int64_t r = 0; r < seen.count; r++)
                        turn<float>(dqueries.row(r), angles + seen.at[r] * C, sines + seen.at[r] * C, -1, scale,
                                    dq + at + r * wide, C);
                }
            for (int64_t t = 0; t < T; t++) {
                turn<float>(dkeys.row(t), angles + t * C, sines + t * C, -1, 1, dk + kv + t * K * C, C);
                turn<float>(dvalues.row(t), nullptr, nullptr, 1, 1, dv + kv + t * K * C, C);
            }
        }
    }
}

// y = x · weight / rms(x) of rows [N, D]; scales [N] keeps 1 / rms.
void norm(const SCALAR* x, const SCALAR* weight, SCALAR* y, float* scales, int64_t N, int64_t D, float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < N; row++) {
        const SCALAR* from = x + row * D;
        float squares = 0;
        for (int64_t i = 0; i < D; i++) squares += float(from[i]) * float(from[i]);
        float scale = scales[row] = 1 / std::sqrt(squares / D + eps);
        for (int64_t i = 0; i < D; i++) y[row * D + i] = float(SCALAR(float(from[i]) * scale)) * float(weight[i]);
    }
}

// The gradients of x [N, D] and of the weight [D], in fp32 for each thread: [threads, D].
void norm_backward(const SCALAR* x, const SCALAR* weight, const float* scales, const SCALAR* dy, SCALAR* dx,
                   float* dweights, int64_t N, int64_t D, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        float* dweight = dweights + part * D;
        std::memset(dweight, 0, D * sizeof(float));
        for (int64_t row = N * part / threads; row < N * (part + 1) / threads; row++) {
            const SCALAR *from = x + row * D, *grad = dy + row * D;
            float scale = scales[row], both = 0;
            for (int64_t i = 0; i < D; i++) {
                float normed = float(from[i]) * scale;
                both += float(grad[i]) * float(weight[i]) * normed;
                dweight[i] += float(grad[i]) * normed;
            }
            both /= D;
            for (int64_t i = 0; i < D; i++)
                dx[row * D + i] = scale * (float(grad[i]) * float(weight[i]) - float(from[i]) * scale * both);
        }
    }
}

// y = silu(gate) · up of N numbers.
void swiglu(const SCALAR* gate, const SCALAR* up, SCALAR* y, int64_t N, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < N; i++) y[i] = float(gate[i]) * sigmoid(gate[i]) * float(up[i]);
}

void swiglu_backward(const SCALAR* gate, const SCALAR* up, const SCALAR* dy, SCALAR* dgate, SCALAR* dup, int64_t N,
                     int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < N; i++) {
        float x = gate[i], open = sigmoid(x), grad = dy[i];
        dup[i] = grad * x * open;
        dgate[i] = grad * float(up[i]) * open * (1 + x * (1 - open));
    }
}

// losses[n] = log Σ e^logits[n] - logits[n, target]. Where entropies [N] are asked for (else null), these are given too;
// where not, the logits [N, V] become the gradient of the losses: softmax - one-hot.
void cross_entropy(SCALAR* logits, const int64_t* targets, float* losses, float* entropies, int64_t N, int64_t V,
                   int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> wide(V);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < N; row++) {
            SCALAR* x = logits + row * V;
            float most = -std::numeric_limits<float>::infinity(), total = 0, target = x[targets[row]];
#pragma omp simd reduction(max : most)
            for (int64_t i = 0; i < V; i++) {
                wide[i] = x[i];
                most = wide[i] > most ? wide[i] : most;
            }
            for (int64_t i = 0; i < V; i++) {
                wide[i] = exponential(wide[i] - most);
                total += wide[i];
            }
            losses[row] = std::log(total) + most - target;
            if (entropies) {
                float inner = 0;  // Σ e^(x - most) · (x - most), which is 0 where e^(x - most) is
                for (int64_t i = 0; i < V; i++) inner += wide[i] > 0 ? wide[i] * (float(x[i]) - most) : 0;
                entropies[row] = std::log(total) - inner / total;
                continue;
            }
            float scale = 1 / total, right = wide[targets[row]] * scale - 1;
            for (int64_t i = 0; i < V; i++) x[i] = wide[i] * scale;
            x[targets[row]] = right;
        }
    }
}
}
