// What the library offers to Python: plain C, raw pointers, nothing of torch.
//
// An output is a dense array of N samples of P numbers, P = ∏sizes, whatever its layout: `sizes` are its
// axes in the order in which they lie in memory, the innermost last. No size is 0; there may be no samples.

#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

constexpr int MOST_AXES = 4;
constexpr int MOST_TERMS = 4;

// One summand of a bias field, in compact form: the number of the place (i₀, i₁, …) is
// values[Σₐ strides[a] · index[a][iₐ]]. A stride of 0 shares an axis; a missing index is iₐ itself.
struct Term {
    float* values;
    int64_t strides[MOST_AXES];
    const int32_t* index[MOST_AXES];
};

struct Field {
    int64_t axes;
    int64_t sizes[MOST_AXES];
    int64_t terms;
    Term term[MOST_TERMS];
};

enum Type : int { FLOAT32, BFLOAT16, FLOAT16, TYPES };

enum Activation : int { NONE, RELU, LEAKY_RELU, SIGMOID, TANH, GELU, GELU_TANH, SILU, HARDSWISH, ACTIVATIONS };

// y = act(z + field), in float32 arithmetic. Without `y` it is written over z; with it, z becomes z + field,
// which the derivative of some activations needs.
void convbias_forward(int type, int activation, void* z, void* y, int64_t samples, const Field* field,
                      int threads);

// gz = gy · act′, and, where `sums` is given, sums[p] = Σₙ gz[n, p]. `saved` is y for the activations up to
// TANH and z for the others. Without activation gz is gy, and neither `saved` nor `gz` is used.
void convbias_backward(int type, int activation, const void* saved, const void* gy, void* gz, float* sums,
                       int64_t samples, int64_t places, int threads);

// The gradient of each term's values from that of the whole field: values[…] = Σ of sums over the places that
// share them. `counts` says how many values each term has. 0 where there is no memory for it.
int convbias_reduce(const float* sums, const Field* field, const int64_t* counts, int threads);

// The instruction set in use; convbias_use changes it and answers 0 where this machine or build lacks it.
const char* convbias_instructions();
int convbias_use(const char* instructions);
}
#pragma GCC visibility pop
