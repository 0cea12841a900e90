// What reading and writing on a CPU need beside products of matrices, at which torch is slow. kernels.py compiles and
// calls it.
//
// - `norm`: torch makes six small operations of it.
// - `attend`: tokens of any number of rows, of any lengths, without padding. One query against hundreds of keys, a few
//   queries sharing each key, suits no matrix product; here a few queries at a time read each cached number once.
// - `step_row`: the whole model for a single row, where every product is one walk through a weight matrix and calling
//   torch for each would take longer than the walk.
// - `draw`: a token for each row, where torch walks through the distribution six times.
//
// Each row's numbers are summed in an order that does not depend on the other rows.
// Compiled for one shape: SCALAR (float or bf16), HEAD_DIM, GROUP (query heads that share a key/value head).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "scalars.h"

using std::int64_t;

constexpr int C = HEAD_DIM, G = GROUP;
static_assert(C % 2 == 0);

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
static void norm_row(const X* x, const SCALAR* weight, X* out, int64_t dim, float eps) {
    float squares = 0;
    for (int64_t i = 0; i < dim; i++) squares += float(x[i]) * float(x[i]);
    float scale = 1 / std::sqrt(squares / dim + eps);
    for (int64_t i = 0; i < dim; i++) out[i] = float(x[i]) * scale * float(weight[i]);
}

// Keys are kept in pages of so many tokens, [C, PAGE] each, so that one load gives a channel of all of them; values as
// [PAGE, C].
constexpr int PAGE = 16;
constexpr int PART = C % 16 == 0 ? 16 : C % 8 == 0 ? 8 : C % 4 == 0 ? 4 : 2;  // channels of a value at once

typedef float Slots __attribute__((vector_size(PAGE * 4)));
typedef std::int32_t Places __attribute__((vector_size(PAGE * 4)));
typedef float Part __attribute__((vector_size(PART * 4)));

template <typename Floats>
static inline Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof values);
    return values;
}

template <typename Floats>
static inline Floats load(const bf16* from) {
    constexpr int N = sizeof(Floats) / 4;
    Floats values;
    std::uint16_t halves[N];
    std::uint32_t words[N];
    std::memcpy(halves, from, sizeof halves);
    for (int i = 0; i < N; i++) words[i] = std::uint32_t(halves[i]) << 16;
    std::memcpy(&values, words, sizeof words);
    return values;
}

// Tokens that follow one another. kernels.py: SPAN.
struct Span {
    int64_t first, count;   // where they stand among all tokens, and how many they are
    int64_t asked;          // of how many, the last ones, the attention is asked for
    int64_t held;           // tokens of this span that its pages hold already
    int64_t parent;         // the span that they go on from, all of it, an earlier one; or -1
    int64_t place, stride;  // the page at which its first head begins, and pages from head to head
};

// What the pages of one head of a span hold.
struct Segment {
    const SCALAR *keys, *values;
    int64_t count;
};

static int64_t before(const Span* spans, const Span& span) {
    int64_t count = 0;
    for (int64_t up = span.parent; up >= 0; up = spans[up].parent) count += spans[up].held + spans[up].count;
    return count;
}

static Segment segment(const Span& span, int64_t head, const SCALAR* k, const SCALAR* v) {
    const int64_t from = (span.place + head * span.stride) * PAGE * C;
    return {k + from, v + from, span.held + span.count};
}

constexpr int parts_at_once(int queries) {  // as many as fit into the registers
    int most = queries < 16 ? 16 / queries : 1;
    while (C / PART % most) most--;
    return most;
}

// Attention of Q queries, q [Q, C] scaled and turned, that see all of each segment but the last, and `seen` tokens of
// that; to out, one pointer a query. weights: room for Q times all slots of all pages.
template <int Q, typename X>
static void look(const float (*q)[C], const int64_t* seen, const std::vector<Segment>& segments, float* weights,
                 X* const* out) {
    Slots most[Q];
    Places places;
    int64_t slots = 0, longest = 0;
    for (const Segment& each : segments) slots += (each.count + PAGE - 1) / PAGE * PAGE;
    for (int i = 0; i < PAGE; i++) places[i] = i;
    const float least = -std::numeric_limits<float>::infinity();
    for (int j = 0; j < Q; j++) {
        most[j] = least - Slots{};
        longest = std::max(longest, seen[j]);
    }

    float* weight = weights;
    for (const Segment& each : segments) {
        const bool last = &each == &segments.back();
        for (int64_t slot = 0; slot < (last ? longest : each.count); slot += PAGE, weight += PAGE) {
            const SCALAR* keys = each.keys + slot * C;
            Slots scores[Q] = {};
            for (int i = 0; i < C; i++) {
                const Slots key = load<Slots>(keys + i * PAGE);
                for (int j = 0; j < Q; j++) scores[j] += q[j][i] * key;
            }
            for (int j = 0; j < Q; j++) {
                const int64_t left = (last ? seen[j] : each.count) - slot;
                if (left < PAGE) scores[j] = places < std::int32_t(left) ? scores[j] : least - Slots{};
                most[j] = scores[j] > most[j] ? scores[j] : most[j];
                std::memcpy(weight + j * slots, &scores[j], sizeof scores[j]);
            }
        }
    }
    const int64_t used = weight - weights;

    float sum[Q];
    for (int j = 0; j < Q; j++) {
        float highest = least, total = 0;
        for (int i = 0; i < PAGE; i++) highest = most[j][i] > highest ? most[j][i] : highest;
        for (int64_t slot = 0; slot < used; slot++) {
            float& one = weights[j * slots + slot];
            one = exponential(one - highest);
            total += one;
        }
        sum[j] = total;
    }

    constexpr int PARTS = parts_at_once(Q);
    for (int channel = 0; channel < C; channel += PARTS * PART) {
        Part mixed[Q][PARTS] = {};
        weight = weights;
        for (const Segment& each : segments) {
            const int64_t count = &each == &segments.back() ? longest : each.count;
            for (int64_t slot = 0; slot < count; slot++)
                for (int part = 0; part < PARTS; part++) {
                    const Part value = load<Part>(each.values + slot * C + channel + part * PART);
                    for (int j = 0; j < Q; j++) mixed[j][part] += weight[j * slots + slot] * value;
                }
            weight += (count + PAGE - 1) / PAGE * PAGE;
        }
        for (int j = 0; j < Q; j++)
            for (int i = 0; i < PARTS * PART; i++) out[j][channel + i] = mixed[j][i / PART][i % PART] / sum[j];
    }
}

// The keys and values of `count` new tokens of a row, turned by their angles, into its pages.
template <typename X>
static void keep(const X* key, const X* value, int64_t narrow, const float* cos, const float* sin, int64_t position,
                 int64_t slot, int64_t count, SCALAR* keys, SCALAR* values) {
    for (int64_t t = 0; t < count; t++, slot++, position++, key += narrow, value += narrow) {
        float turned[C];
        rotate(key, cos + position * (C / 2), sin + position * (C / 2), 1, turned);
        SCALAR* page = keys + slot / PAGE * PAGE * C + slot % PAGE;
        for (int i = 0; i < C; i++) page[i * PAGE] = turned[i];
        for (int i = 0; i < C; i++) values[slot * C + i] = float(value[i]);
    }
}

// q [tokens, heads · C], k and v [tokens, kv_heads · C], `wide` and `narrow` numbers from token to token; cos, sin
// [positions, C / 2]; out [tokens, heads · C], of which the tokens that are asked for are written. To be called by all
// threads of a team.
template <typename X>
static void attend_spans(const X* q, const X* k, const X* v, int64_t wide, int64_t narrow, const float* cos,
                         const float* sin, SCALAR* keys, SCALAR* values, const Span* spans, int64_t n_spans, X* out,
                         int64_t kv_heads) {
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < n_spans * kv_heads; unit++) {
        const Span& span = spans[unit / kv_heads];
        const int64_t head = unit % kv_heads, from = (span.place + head * span.stride) * PAGE * C;
        keep(k + span.first * narrow + head * C, v + span.first * narrow + head * C, narrow, cos, sin,
             before(spans, span) + span.held, span.held, span.count, keys + from, values + from);
    }

    const float scale = 1 / std::sqrt(float(C));
    std::vector<float> weights;
    std::vector<Segment> segments;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < n_spans * kv_heads; unit++) {
        const Span& span = spans[unit / kv_heads];
        const int64_t head = unit % kv_heads, start = before(spans, span) + span.held;
        int64_t slots = 0;
        segments.clear();
        for (const Span* up = &span; up; up = up->parent >= 0 ? spans + up->parent : nullptr) {
            segments.push_back(segment(*up, head, keys, values));
            slots += (segments.back().count + PAGE - 1) / PAGE * PAGE;
        }
        std::reverse(segments.begin(), segments.end());
        constexpr int MOST = 8;
        weights.resize(MOST * slots);
        float turned[MOST][C];
        int64_t seen[MOST];
        X* to[MOST];
        const int64_t end = span.count * G;
        for (int64_t query = (span.count - span.asked) * G; query < end;) {
            const int64_t left = end - query;
            const int count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            for (int j = 0; j < count; j++, query++) {
                const int64_t t = query / G, token = span.first + t, at = (head * G + query % G) * C;
                rotate(q + token * wide + at, cos + (start + t) * (C / 2), sin + (start + t) * (C / 2), scale, turned[j]);
                seen[j] = span.held + t + 1;
                to[j] = out + token * kv_heads * G * C + at;
            }
            if (count == 8) look<8>(turned, seen, segments, weights.data(), to);
            else if (count == 4) look<4>(turned, seen, segments, weights.data(), to);
            else if (count == 2) look<2>(turned, seen, segments, weights.data(), to);
            else look<1>(turned, seen, segments, weights.data(), to);
        }
    }
}

static inline float dot(const SCALAR* weight, const float* x, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; i++) sum += x[i] * float(weight[i]);
    return sum;
}

extern "C" void norm(const SCALAR* x, const SCALAR* weight, SCALAR* out, int64_t rows, int64_t dim, float eps,
                     int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows > 32)
    for (int64_t row = 0; row < rows; row++) norm_row(x + row * dim, weight, out + row * dim, dim, eps);
}

extern "C" void attend(const SCALAR* q, const SCALAR* k, const SCALAR* v, const float* cos, const float* sin,
                       SCALAR* keys, SCALAR* values, const Span* spans, SCALAR* out, int64_t wide, int64_t narrow,
                       int64_t n_spans, int64_t kv_heads, int threads) {
#pragma omp parallel num_threads(threads)
    attend_spans(q, k, v, wide, narrow, cos, sin, keys, values, spans, n_spans, out, kv_heads);
}

// The weights of a layer as [outputs, inputs], and the pages of its keys and values.
struct Layer {
    const SCALAR *norm, *q, *k, *v, *out, *mlp_norm, *gate, *up, *down;
    SCALAR *keys, *values;
};

// Writes `token` at position `length` of the first row of a cache of `pages` pages a row and head; logits [vocab].
extern "C" void step_row(const Layer* layers, const SCALAR* embedding, const SCALAR* last_norm, const SCALAR* head,
                         const float* cos, const float* sin, float* logits, int64_t token, int64_t length,
                         int64_t n_layers, int64_t dim, int64_t kv_heads, int64_t ffn, int64_t vocab, int64_t pages,
                         float eps, int threads) {
    const int64_t wide = kv_heads * G * C, narrow = kv_heads * C;
    const Span span = {0, 1, 1, length, -1, 0, pages};
    std::vector<float> x(dim), qkv(wide + 2 * narrow), mixed(wide), inner(ffn);
    for (int64_t i = 0; i < dim; i++) x[i] = embedding[token * dim + i];
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> h(dim);  // each thread has its own: to wait for it would take longer than to compute it
        for (const Layer* layer = layers; layer < layers + n_layers; layer++) {
            norm_row(x.data(), layer->norm, h.data(), dim, eps);
#pragma omp for schedule(static)
            for (int64_t o = 0; o < wide + 2 * narrow; o++) {
                const SCALAR* weight = o < wide            ? layer->q + o * dim
                                       : o < wide + narrow ? layer->k + (o - wide) * dim
                                                           : layer->v + (o - wide - narrow) * dim;
                qkv[o] = dot(weight, h.data(), dim);
            }
            attend_spans(qkv.data(), qkv.data() + wide, qkv.data() + wide + narrow, wide, narrow, cos, sin,
                         layer->keys, layer->values, &span, 1, mixed.data(), kv_heads);
#pragma omp for schedule(static)
            for (int64_t o = 0; o < dim; o++) x[o] += dot(layer->out + o * wide, mixed.data(), wide);
            norm_row(x.data(), layer->mlp_norm, h.data(), dim, eps);
#pragma omp for schedule(static)
            for (int64_t o = 0; o < ffn; o++)
                inner[o] = silu(dot(layer->gate + o * dim, h.data(), dim)) * dot(layer->up + o * dim, h.data(), dim);
#pragma omp for schedule(static)
            for (int64_t o = 0; o < dim; o++) x[o] += dot(layer->down + o * ffn, inner.data(), ffn);
        }
        norm_row(x.data(), last_norm, h.data(), dim, eps);
#pragma omp for schedule(static)
        for (int64_t o = 0; o < vocab; o++) logits[o] = dot(head + o * dim, h.data(), dim);
    }
}

static inline std::uint64_t mix(std::uint64_t x) {  // the finalizer of splitmix64 (Steele et al. 2014)
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

// engine.py: uniform
static double uniform(std::uint64_t seed, std::uint64_t key, std::uint64_t sample, std::uint64_t position) {
    std::uint64_t state = seed;
    for (std::uint64_t part : {key, sample, position}) state = mix(state + 0x9E3779B97F4A7C15u) ^ part;
    return double(mix(state + 0x9E3779B97F4A7C15u) >> 11) * 0x1p-53;
}

// engine.py: nucleus. The least of `p`, all from 0 to 1, that stays, where strictly likelier ones hold at most `most`.
// Numbers are told apart by their first bits at first; only those about the border need sorting.
static float border(const float* p, int64_t count, double most) {
    auto bucket = [](float x) {
        std::uint32_t bits;
        std::memcpy(&bits, &x, 4);
        return bits >> 19;
    };
    std::vector<double> masses(bucket(1) + 1);
    for (int64_t i = 0; i < count; i++) masses[bucket(p[i])] += p[i];
    double likelier = 0;
    std::uint32_t here = bucket(1);
    while (here > 0 && likelier + masses[here] <= most) likelier += masses[here--];
    std::vector<float> near;
    for (int64_t i = 0; i < count; i++)
        if (bucket(p[i]) == here) near.push_back(p[i]);
    std::sort(near.begin(), near.end(), std::greater<float>());
    float least = 2;  // all in this bucket are cut
    for (float each : near) {
        if (likelier > most) break;
        least = each, likelier += each;
    }
    return least;
}

struct Sampling {
    double temperature, top_p, penalty;
    int64_t top_k;
    std::uint64_t seed;
};

// engine.py: draw, by inverting the cumulative distribution of one row; p, [vocab], is overwritten.
static int64_t draw_row(float* p, int64_t vocab, const Sampling& how, double u, float* logprob) {
    float least = -std::numeric_limits<float>::infinity(), most = least;
    if (how.top_k && how.top_k < vocab) {
        std::vector<float> sorted(p, p + vocab);
        std::nth_element(sorted.begin(), sorted.begin() + how.top_k - 1, sorted.end(), std::greater<float>());
        least = sorted[how.top_k - 1];
    }
    for (int64_t i = 0; i < vocab; i++) most = p[i] > most ? p[i] : most;
    const bool greedy = how.temperature == 0;
    const int64_t likeliest = std::find(p, p + vocab, most) - p;
    const float temperature = greedy ? 1 : float(how.temperature);
    double mass = 0;
    for (int64_t i = 0; i < vocab; i++) {
        p[i] = p[i] < least ? 0 : exponential((p[i] - most) / temperature);
        mass += p[i];
    }
    if (greedy) {
        *logprob = float(-std::log(mass));
        return std::min(likeliest, vocab - 1);
    }
    if (how.top_p < 1 && mass == mass) {
        const float kept = std::min(border(p, vocab, how.top_p * mass), 1.f);  // the likeliest, which is 1, stays
        mass = 0;
        for (int64_t i = 0; i < vocab; i++) mass += p[i] = p[i] < kept ? 0 : p[i];
    }
    constexpr int64_t BLOCK = 64;  // skipped at once
    const double target = u * mass;
    double passed = 0;
    int64_t token = vocab - 1;
    for (int64_t start = 0; start < vocab; start += BLOCK) {
        const int64_t end = std::min(start + BLOCK, vocab);
        double sum = 0;
        for (int64_t i = start; i < end; i++) sum += p[i];
        if (passed + sum <= target) {
            passed += sum;
            continue;
        }
        for (int64_t i = start; i < end; i++)
            if (p[i] > 0) {
                token = i;
                if ((passed += p[i]) > target) goto found;
            }
    }
found:
    *logprob = float(std::log(double(p[token]) / mass));
    return token;
}

// One token for each row and the log-probability it was drawn with; seen [rows, vocab], of tokens that are made less
// likely, or null; a drawn token is seen. The uniform numbers are those of (seed, key, sample, position).
extern "C" void draw(const float* logits, bool* seen, const std::uint64_t* keys, const int64_t* samples,
                     const int64_t* positions, int64_t* tokens, float* logprobs, int64_t rows, int64_t vocab,
                     int64_t top_k, std::uint64_t seed, double temperature, double top_p, double penalty, int threads) {
    const Sampling how = {temperature, top_p, penalty, top_k, seed};
#pragma omp parallel num_threads(threads) if (rows > 1)
    {
        std::vector<float> p(vocab);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            std::copy(logits + row * vocab, logits + (row + 1) * vocab, p.begin());
            bool* said = seen ? seen + row * vocab : nullptr;
            if (said)
                for (int64_t i = 0; i < vocab; i++)
                    if (said[i]) p[i] = p[i] > 0 ? p[i] / float(penalty) : p[i] * float(penalty);
            const double u = uniform(seed, keys[row], samples[row], positions[row]);
            tokens[row] = draw_row(p.data(), vocab, how, u, &logprobs[row]);
            if (said) said[tokens[row]] = true;
        }
    }
}
