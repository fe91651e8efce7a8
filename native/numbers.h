// Numbers as they lie in memory, read and written as float32. No branches: loops over them vectorise.

#pragma once

#include <stdint.h>
#include <string.h>

#include "inline.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

ALWAYS_INLINE float float_of(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

ALWAYS_INLINE uint32_t bits_of(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

struct Bfloat16 {
    uint16_t bits;
};

struct Float16 {
    uint16_t bits;
};

ALWAYS_INLINE float read(float number) { return number; }

ALWAYS_INLINE float read(Bfloat16 number) { return float_of(uint32_t(number.bits) << 16); }

// The exponent's bias is 112 larger in float32; an exponent of ones (inf, NaN) has to stay one.
ALWAYS_INLINE float read(Float16 number) {
    const uint32_t sign = uint32_t(number.bits & 0x8000) << 16, rest = uint32_t(number.bits & 0x7fff) << 13;
    const uint32_t scaled = bits_of(float_of(rest) * 0x1p112f);
    return float_of(sign | (rest < 0x0f800000 ? scaled : rest | 0x7f800000));
}

ALWAYS_INLINE void write(float* to, float number) { *to = number; }

// Both round to nearest, ties to even.
ALWAYS_INLINE void write(Bfloat16* to, float number) {
    const uint32_t bits = bits_of(number), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    to->bits = uint16_t(number != number ? 0x7fc0 : rounded);
}

ALWAYS_INLINE void write(Float16* to, float number) {
    const uint32_t bits = bits_of(number), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    const uint32_t normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    // Added to 0.5, a number below 2⁻¹⁴ is rounded to a multiple of 2⁻²⁴, the unit of float16's subnormals.
    const uint32_t subnormal = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
    const uint32_t beyond = size > 0x7f800000 ? 0x7e00 : 0x7c00;
    const uint32_t finite = size < 0x38800000 ? subnormal : normal;
    to->bits = uint16_t(sign | (size < 0x47800000 ? finite : beyond));
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
