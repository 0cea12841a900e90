// SentencePiece's BPE, word by word, with the ids of words remembered. cached.py compiles and calls it.
//
// What comes in is valid UTF-8 with plain spaces where pieces have U+2581. It is cut before every run of spaces and
// around every newline, which is exact for the vocabularies that cached.py lets through. A word's characters are joined
// as bpe_model.cc of SentencePiece does it: of all neighbours that are a piece together the pair with the best score
// first, of equals the leftmost; a character without a piece becomes its bytes.
//
// Compiled for one type of ids, ID (uint16_t or uint32_t), and one size of the memory.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using std::size_t, std::int32_t, std::uint32_t, std::int64_t, std::uint64_t;

#ifndef WORDS
#define LONGEST 64       // bytes of a word that is worth remembering
#define WORDS (1 << 19)  // remembered at most; all are forgotten when one more comes
#define LETTERS (1 << 23)  // bytes of them all
#endif

static uint64_t hash_of(const char* text, size_t size) {  // a multiplication for every 8 bytes, as wyhash has
    uint64_t hash = size * 0x9e3779b97f4a7c15u;
    for (; size; text += 8) {
        uint64_t word = 0;
        size_t now = std::min<size_t>(size, 8);
        std::memcpy(&word, text, now);
        __uint128_t product = (__uint128_t)(hash ^ word ^ 0xa0761d6478bd642fu) * 0xe7037ed1a0b428dbu;
        hash = uint64_t(product) ^ uint64_t(product >> 64);
        size -= now;
    }
    return hash;
}

struct Entry {
    uint64_t hash;
    const char* text;  // nullptr: free
    uint32_t size, value;
};

// Strings to numbers, with open addressing; `text` is not copied.
class Table {
  public:
    explicit Table(size_t most) {
        size_t slots = 16;
        while (slots < 2 * most) slots *= 2;
        entries.assign(slots, {});
    }
    Entry& find(const char* text, size_t size) {  // the string's entry, or the free one where it belongs
        uint64_t hash = hash_of(text, size);
        for (size_t at = hash;; at++) {
            Entry& entry = entries[at & (entries.size() - 1)];
            if (!entry.text) entry.hash = hash;
            if (!entry.text || (entry.hash == hash && entry.size == size && !std::memcmp(entry.text, text, size)))
                return entry;
        }
    }
    void clear() { std::fill(entries.begin(), entries.end(), Entry{}); }

  private:
    std::vector<Entry> entries;
};

struct Symbol {
    uint32_t start, size;  // of its bytes in the word; size 0: it was joined to the one before it
    int32_t previous, next;
};

struct Pair {
    float score;
    int32_t left, right;
    uint32_t size;
    bool operator<(const Pair& other) const {  // the best is the largest
        return score < other.score || (score == other.score && left > other.left);
    }
};

class Coder {
  public:
    Coder(const char* texts, const uint32_t* sizes, const uint32_t* ids, const float* scores, size_t count,
          const uint32_t* byte_ids)
        : vocabulary(count), words(WORDS), letters(LETTERS), ids(ids, ids + count), scores(scores, scores + count),
          byte_ids(byte_ids, byte_ids + 256) {
        size_t total = 0;
        for (size_t i = 0; i < count; i++) total += sizes[i], longest = std::max<size_t>(longest, sizes[i]);
        this->texts.assign(texts, texts + total);
        const char* text = this->texts.data();
        for (size_t i = 0; i < count; text += sizes[i++]) {
            Entry& entry = vocabulary.find(text, sizes[i]);
            entry.text = text, entry.size = sizes[i], entry.value = i;
        }
    }

    const std::vector<ID>& encode(const char* text, size_t size) {
        std::vector<ID>().swap(out);
        out.reserve(size / 2);
        for (size_t end, start = 0; start < size; start = end) {
            end = start + 1;
            if (text[start] != '\n') {
                while (end < size && text[end] == ' ' && text[end - 1] == ' ') end++;
                while (end < size && text[end] != ' ' && text[end] != '\n') end++;
            }
            append(text + start, end - start);
        }
        return out;
    }

  private:
    Table vocabulary, words;
    std::vector<char> texts, letters;
    std::vector<uint32_t> ids;
    std::vector<float> scores;
    std::vector<uint32_t> byte_ids;
    std::vector<ID> known, out;  // the ids of remembered words, each led by how many; of the text
    std::vector<Symbol> symbols;
    std::vector<Pair> pairs;  // a heap
    size_t longest = 0, words_known = 0, letters_known = 0;

    void append(const char* word, size_t size) {
        if (size > LONGEST) return spell(word, size);
        Entry* entry = &words.find(word, size);
        if (entry->text) {
            const ID* first = &known[entry->value];
            out.insert(out.end(), first + 1, first + 1 + *first);
            return;
        }
        if (words_known == WORDS || letters_known + size > LETTERS) {
            words.clear(), known.clear();
            words_known = letters_known = 0;
            entry = &words.find(word, size);
        }
        size_t before = out.size();
        spell(word, size);
        std::memcpy(&letters[letters_known], word, size);
        entry->text = &letters[letters_known], entry->size = size, entry->value = known.size();
        known.push_back(out.size() - before);
        known.insert(known.end(), out.begin() + before, out.end());
        letters_known += size, words_known++;
    }

    void spell(const char* word, size_t size) {
        symbols.clear(), pairs.clear();
        if (size > LONGEST) symbols.reserve(size), pairs.reserve(size);
        for (size_t at = 0, length; at < size; at += length) {
            unsigned char lead = word[at];
            length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
            int32_t i = symbols.size();
            symbols.push_back({uint32_t(at), uint32_t(length), i - 1, i + 1});
        }
        symbols.back().next = -1;
        for (size_t i = 1; i < symbols.size(); i++) offer(word, i - 1, i);
        while (!pairs.empty()) {
            Pair best = pairs.front();
            std::pop_heap(pairs.begin(), pairs.end());
            pairs.pop_back();
            Symbol &left = symbols[best.left], &right = symbols[best.right];
            if (!left.size || !right.size || left.size + right.size != best.size) continue;  // joined to others since
            left.size += right.size, right.size = 0;
            left.next = right.next;
            if (right.next >= 0) symbols[right.next].previous = best.left;
            offer(word, left.previous, best.left);
            offer(word, best.left, left.next);
        }
        for (int32_t i = 0; i >= 0; i = symbols[i].next) emit(word + symbols[i].start, symbols[i].size);
        if (size > LONGEST) std::vector<Symbol>().swap(symbols), std::vector<Pair>().swap(pairs);
    }

    void offer(const char* word, int32_t left, int32_t right) {
        if (left < 0 || right < 0) return;
        uint32_t size = symbols[left].size + symbols[right].size;
        if (size > longest) return;
        const Entry& entry = vocabulary.find(word + symbols[left].start, size);
        if (!entry.text) return;
        pairs.push_back({scores[entry.value], left, right, size});
        std::push_heap(pairs.begin(), pairs.end());
    }

    void emit(const char* text, size_t size) {
        const Entry& entry = vocabulary.find(text, size);
        if (entry.text) {
            out.push_back(ids[entry.value]);
            return;
        }
        if (*text == ' ') text = "\xe2\x96\x81", size = 3;
        for (size_t i = 0; i < size; i++) out.push_back(byte_ids[(unsigned char)text[i]]);
    }
};

extern "C" {

Coder* coder_new(const char* texts, const uint32_t* sizes, const uint32_t* ids, const float* scores, int64_t count,
                 const uint32_t* byte_ids) {
    return new Coder(texts, sizes, ids, scores, count, byte_ids);
}

void coder_free(Coder* coder) { delete coder; }

// How many ids; *ids points to them until the next call.
int64_t coder_encode(Coder* coder, const char* text, int64_t size, const ID** ids) {
    const std::vector<ID>& found = coder->encode(text, size);
    *ids = found.data();
    return found.size();
}
}
