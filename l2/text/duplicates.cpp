// One document's words, shingles and MinHash, and how alike two are. duplicates.py compiles and calls it, computes the
// same where there is no compiler, and says what all of it means.

#include <algorithm>
#include <cstdint>
#include <cstring>

using std::int64_t, std::uint32_t, std::uint64_t, std::uint8_t;

static const uint64_t MULTIPLIER = 0x9e3779b97f4a7c15u, INVERSE = 0xf1de83e19937733du;  // their product is 1
static const int WORDS = 5;                                                             // of a shingle
enum Kind : uint8_t { LETTER, BREAK, SIGN };

static uint64_t mixed(uint64_t x) {  // splitmix64's finalizer
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint32_t fmix32(uint32_t h) {  // MurmurHash3's finalizer
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

// The character of two bytes or more at `text`, valid UTF-8, and its length.
static uint32_t character(const uint8_t* text, int& length) {
    uint32_t lead = text[0];
    length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint32_t c = lead & (0x7f >> length);
    for (int i = 1; i < length; i++) c = c << 6 | (text[i] & 0x3f);
    return c;
}

extern "C" {

// The words of `text` with one space between them, to `out`, which has room for 2 * size; returns their bytes. `kinds`
// holds the kind of each character up to `known`; those above are letters.
int64_t words(const uint8_t* text, int64_t size, const uint8_t* kinds, uint32_t known, uint8_t* out) {
    int64_t count = 0;
    bool open = false;  // a word; where none is, `out` is empty or ends with a space
    for (int64_t at = 0; at < size;) {
        if (text[at] < 0x80) {  // without a branch, since nobody can tell where words end
            bool letter = kinds[text[at]] == LETTER;
            out[count] = letter ? text[at] : ' ';
            count += letter | open;
            open = letter, at++;
            continue;
        }
        int length;
        uint32_t c = character(text + at, length);
        uint8_t kind = c < known ? kinds[c] : uint8_t(LETTER);
        if (open && kind != LETTER) out[count++] = ' ';
        if (kind != BREAK) std::memcpy(out + count, text + at, length), count += length;
        if (kind == SIGN) out[count++] = ' ';
        open = kind == LETTER, at += length;
    }
    return count && out[count - 1] == ' ' ? count - 1 : count;
}

// The hashes of all word 5-grams, sorted, each once, to `hashes`, which has room for as many as there are words;
// returns how many.
int64_t shingles(const uint8_t* text, int64_t size, uint64_t* hashes) {
    uint64_t sum = 0, power = 1, inverse = 1;               // MULTIPLIER and INVERSE to the power of the place
    uint64_t sums[WORDS] = {0}, inverses[WORDS] = {1};      // where the last words started
    int64_t word = 0, count = 0;
    for (int64_t at = 0;; at++) {
        if (at == size || text[at] == ' ') {
            word++;
            int first = word % WORDS;  // of the five that end here, as (word - 5) % 5
            if (word >= WORDS) hashes[count++] = mixed((sum - sums[first]) * inverses[first]);
            if (at == size) break;
            sums[first] = sum + (' ' + 1) * power, inverses[first] = inverse * INVERSE;
        }
        sum += (text[at] + 1) * power;
        power *= MULTIPLIER, inverse *= INVERSE;
    }
    if (!count) hashes[count++] = mixed(sum);
    std::sort(hashes, hashes + count);
    return std::unique(hashes, hashes + count) - hashes;
}

// How many hashes two sorted sets have in common.
int64_t common(const uint64_t* a, int64_t a_size, const uint64_t* b, int64_t b_size) {
    int64_t count = 0;
    for (int64_t i = 0, j = 0; i < a_size && j < b_size;) {
        uint64_t x = a[i], y = b[j];
        count += x == y, i += x <= y, j += y <= x;
    }
    return count;
}

// min over shingles of a * fmix32(upper half) + b, for each of the permutations.
void signature(const uint64_t* hashes, int64_t count, const uint32_t* __restrict a, const uint32_t* __restrict b,
               uint32_t* __restrict least, int64_t permutations) {
    std::fill(least, least + permutations, 0xffffffffu);
    for (int64_t i = 0; i < count; i++) {
        uint32_t h = fmix32(hashes[i] >> 32);
        for (int64_t p = 0; p < permutations; p++) least[p] = std::min(least[p], a[p] * h + b[p]);
    }
}
}
