// What a transformer computes beside matrix products, forwards and backwards, each in one walk through memory on a CPU;
// torch walks five to ten times. fused.py compiles and calls it. Numbers are SCALAR (float or bf16), sums are fp32.
//
// Letters: B batch, T positions, K key/value heads, G query heads that share each, C channels of a head, D model width,
// V vocabulary, N rows. Threads share out rows in order, so that the same number of threads gives the same bits.

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

// x · cos + way · (-x2, x1) · sin for the halves x1, x2 of x [C], times scale; without angles x as it is
static inline void turn(const SCALAR* x, const float* cos, const float* sin, float way, float scale, SCALAR* out,
                        int64_t C) {
    if (!cos) {
        std::memcpy(out, x, C * sizeof(SCALAR));
        return;
    }
    for (int64_t i = 0; i < C / 2; i++) {
        float first = x[i], second = x[i + C / 2], side = way * sin[i];
        out[i] = (first * cos[i] - second * side) * scale;
        out[i + C / 2] = (second * cos[i] + first * side) * scale;
    }
}

extern "C" {

// x [B, T, K·G·C] to out [B, K, T, G, C], each head turned by the angles of its position, cos and sin [B, T, C] (null:
// as it is), times scale. back: from the second shape to the first, turned the other way: its own gradient.
void heads(const SCALAR* x, const float* cos, const float* sin, SCALAR* out, int64_t B, int64_t T, int64_t K, int64_t G,
           int64_t C, float scale, int back, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t k = 0; k < K; k++)
                for (int64_t g = 0; g < G; g++) {
                    int64_t flat = (((b * T + t) * K + k) * G + g) * C, split = (((b * K + k) * T + t) * G + g) * C;
                    int64_t angle = (b * T + t) * C;
                    turn(x + (back ? split : flat), cos ? cos + angle : cos, sin + angle, back ? -1 : 1, scale,
                         out + (back ? flat : split), C);
                }
}

// Scores [B·K, R, S] of the queries from position t0 on (R rows of them, G to a position) become weights: the softmax over
// the positions from[b, t] .. t of each row, zero elsewhere. From position fork[b, 1] on, those from fork[b, 0] to there
// are left out, too (null: none); a weight of zero needs no more to leave them out of every gradient.
void softmax(SCALAR* scores, const int64_t* from, const int64_t* fork, int64_t B, int64_t T, int64_t K, int64_t G,
             int64_t R, int64_t S, int64_t t0, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < B * K * R; row++) {
        int64_t t = t0 + row % R / G, first = from[row / R / K * T + t];
        SCALAR* x = scores + row * S;
        float wide[S];
        float most = -std::numeric_limits<float>::infinity(), total = 0;
        const int64_t* hidden = fork ? fork + row / R / K * 2 : nullptr;
        if (hidden && t >= hidden[1]) std::fill(x + hidden[0], x + hidden[1], SCALAR(most));
#pragma omp simd reduction(max : most)
        for (int64_t s = first; s <= t; s++) {
            wide[s] = x[s];
            most = wide[s] > most ? wide[s] : most;
        }
        for (int64_t s = first; s <= t; s++) {
            wide[s] = exponential(wide[s] - most);
            total += wide[s];
        }
        float scale = 1 / total;
        for (int64_t s = first; s <= t; s++) x[s] = wide[s] * scale;
        std::memset(x, 0, first * sizeof(SCALAR));
        std::memset(x + t + 1, 0, (S - t - 1) * sizeof(SCALAR));
    }
}

// Gradients [B·K, R, S] of the weights become those of the scores: w · (g - Σ w·g).
void softmax_backward(const SCALAR* weights, SCALAR* grads, const int64_t* from, int64_t B, int64_t T, int64_t K,
                      int64_t G, int64_t R, int64_t S, int64_t t0, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < B * K * R; row++) {
        int64_t t = t0 + row % R / G, first = from[row / R / K * T + t];
        const SCALAR* w = weights + row * S;
        SCALAR* g = grads + row * S;
        float both = 0;
        for (int64_t s = first; s <= t; s++) both += float(w[s]) * float(g[s]);
        for (int64_t s = first; s <= t; s++) g[s] = float(w[s]) * (float(g[s]) - both);
        std::memset(g, 0, first * sizeof(SCALAR));
        std::memset(g + t + 1, 0, (S - t - 1) * sizeof(SCALAR));
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

// losses[n] = log Σ e^logits[n] - logits[n, target]; the logits [N, V] become the gradient of that: softmax - one-hot.
void cross_entropy(SCALAR* logits, const int64_t* targets, float* losses, int64_t N, int64_t V, int threads) {
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
            float scale = 1 / total, right = wide[targets[row]] * scale - 1;
            for (int64_t i = 0; i < V; i++) x[i] = wide[i] * scale;
            x[targets[row]] = right;
        }
    }
}
}
