// Numbers of 16 bits and the exponential, for the C++ of decoding (l2/generate) and of training (l2/train).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

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
        std::uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
        bits = value == value ? rounded : 0x7fc0;
    }
};

// e^x for x <= 0, to 2e-6 of itself, and 0 where that is under the least float; the library's is called for one number
// at a time. NaN stays NaN. x = n ln 2 + t with |t| <= ln 2 / 2, then the Taylor series of e^t times 2^n.
static inline float exponential(float given) {
    float x = given < -87 ? -87 : given;
    float n = std::rint((x == x ? x : 0) * 1.44269504f), t = x - n * 0.693147181f;
    float series = 1 + t * (1 + t * (1 / 2.f + t * (1 / 6.f + t * (1 / 24.f + t * (1 / 120.f + t * (1 / 720.f))))));
    std::uint32_t bits = std::uint32_t(std::int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return given < -87 ? 0 : series * power;
}
