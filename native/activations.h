// Activations and their derivatives on single numbers, without branches: loops over them vectorise. A NaN
// stays one. The coefficients are those of fit.py.

#pragma once

#include "convbias.h"
#include "numbers.h"

namespace CONVBIAS_INSTRUCTIONS {
namespace {

// e^x = scale · (1 + rest), to about an ulp from −87 to 88; beyond, it is the smallest number, or infinite.
struct Exponential {
    float scale, rest;
};

ALWAYS_INLINE Exponential exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 89.0f ? 89.0f : x;
    // Added to 1.5·2²³, a number is rounded to an integer, which then stands in the lowest bits.
    const float shifted = x * 1.44269504f + 0x1.8p23f, k = shifted - 0x1.8p23f;
    const float r = x - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.9899420e-4f;
    p = p * r + 1.3933753e-3f;
    p = p * r + 8.3332980e-3f;
    p = p * r + 4.1666463e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    return {float_of((bits_of(shifted) + 127) << 23), p * r * r + r};
}

ALWAYS_INLINE float exp_(float x) {
    const Exponential e = exponential(x);
    return e.scale * (1.0f + e.rest);
}

ALWAYS_INLINE float sigmoid_(float x) { return 1.0f / (1.0f + exp_(-x)); }

// By e^2x − 1, so that small numbers keep their digits.
ALWAYS_INLINE float tanh_(float x) {
    x = x < -20.0f ? -20.0f : x;
    x = x > 20.0f ? 20.0f : x;
    const Exponential e = exponential(2.0f * x);
    const float less_one = e.scale * e.rest + (e.scale - 1.0f);
    return less_one / (less_one + 2.0f);
}

// The normal distribution: its cumulative function and, as a by-product, its density's exponential part.
// erfc(a) = e^(−a²) · f(t) / (1 + 2a), f a polynomial in t = (a − 2)/(a + 2) (after Shepherd and Laframboise,
// Chebyshev approximation of (1 + 2x) exp(x²) erfc x, 1981), keeps the tail's digits.
struct Normal {
    float cumulative, exponential;
};

ALWAYS_INLINE Normal normal(float x) {
    const float size = x < 0 ? -x : x, inside = size > 12.5f ? 12.5f : size;
    const float a = inside * 0.70710678f, near = a + 2.0f, far = 1.0f + 2.0f * a, both = 1.0f / (near * far);
    const float t = (a - 2.0f) * far * both;
    float f = 1.5964037e-4f;
    f = f * t - 1.8213394e-4f;
    f = f * t - 1.3930554e-3f;
    f = f * t + 1.0397307e-3f;
    f = f * t + 8.6871320e-3f;
    f = f * t - 7.9401690e-3f;
    f = f * t - 5.4211378e-2f;
    f = f * t + 1.6403514e-1f;
    f = f * t - 1.6603114e-1f;
    f = f * t - 9.2763030e-2f;
    f = f * t + 1.2769784f;
    const float e = exp_(-a * a);
    // Further out the tail would leave float32's range.
    const float tail = size > 12.5f ? 0.0f : 0.5f * e * f * near * both;
    return {x < 0 ? tail : 1.0f - tail, e};
}

// ½ (1 + tanh u) is sigmoid 2u, which keeps the tail's digits.
ALWAYS_INLINE float gelu_tanh_gate(float x) { return sigmoid_(1.5957691f * x * (1.0f + 0.044715f * x * x)); }

ALWAYS_INLINE float clamped(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

template <int activation>
ALWAYS_INLINE float activate(float z) {
    switch (activation) {
        case RELU: return z < 0 ? 0.0f : z;
        case RELU6: return clamped(z, 0.0f, 6.0f);
        case LEAKY_RELU: return z < 0 ? 0.01f * z : z;
        case SIGMOID: return sigmoid_(z);
        case TANH: return tanh_(z);
        case GELU: return z * normal(z).cumulative;
        case GELU_TANH: return z * gelu_tanh_gate(z);
        case SILU: return z / (1.0f + exp_(-z));
        case HARDSWISH: return z * clamped(z + 3.0f, 0.0f, 6.0f) * (1.0f / 6);
        default: return z;
    }
}

// gy · act′, from what is saved. Where a slope is 0 throughout, nothing is handed on, not even a NaN.
template <int activation>
ALWAYS_INLINE float hand_back(float saved, float gy) {
    switch (activation) {
        case RELU: return saved <= 0 ? 0.0f : gy;
        case RELU6: {
            const float below = saved >= 6.0f ? 0.0f : gy;
            return saved <= 0 ? 0.0f : below;
        }
        case LEAKY_RELU: return saved > 0 ? gy : 0.01f * gy;
        case SIGMOID: return gy * saved * (1.0f - saved);
        case TANH: return gy * (1.0f - saved * saved);
        case GELU: {
            // Further out the exponential is a tiny number, not 0: times a large one it would be felt.
            const Normal n = normal(saved);
            return gy * (n.cumulative + clamped(saved, -12.5f, 12.5f) * 0.39894228f * n.exponential);
        }
        case GELU_TANH: {
            // Further out the slope is 0 or 1, and squares would be infinite.
            const float z = clamped(saved, -12.5f, 12.5f), g = gelu_tanh_gate(z), slope = 1.5957691f + 0.21406445f * z * z;
            return gy * g * (1.0f + z * (1.0f - g) * slope);
        }
        case SILU: {
            const float s = sigmoid_(saved);
            return gy * s * (1.0f + saved * (1.0f - s));
        }
        case HARDSWISH: {
            const float inside = saved >= 3.0f ? gy : gy * (saved * (1.0f / 3) + 0.5f);
            return saved <= -3.0f ? 0.0f : inside;
        }
        default: return gy;
    }
}

}  // namespace
}  // namespace CONVBIAS_INSTRUCTIONS
